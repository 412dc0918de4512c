"""Records of a domain as a collection, and a recipe's `data.keep`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import BaseModel

from unlabeled.core.contracts import Domain, Input, RequestError, Sample
from unlabeled.core.contracts.recipe import Data, absolute, read_recipe
from unlabeled.core.curate.collection import CELLS
from unlabeled.core.curate.duplicates import Duplicates
from unlabeled.core.curate.records import read_records
from unlabeled.core.data.corpus import Corpus


class Options(BaseModel):
    pass


class Reader:
    """Reads (C, *S) from .npy."""

    def __init__(self, options: Options, root: Path) -> None:
        pass

    def files(self, root: Path) -> list[Path]:
        return sorted(root.glob("*.npy"))

    def read(self, path: Path) -> Iterable[Sample]:
        data = np.load(path)
        names = tuple(f"c{i}" for i in range(len(data)))
        x = Input(data, names, ("",) * len(data), spacing=(1.0,) * (data.ndim - 1))
        yield Sample({"x": x}, path.stem, path.stem[0])


@pytest.fixture
def domain(monkeypatch: pytest.MonkeyPatch) -> Domain:
    import sys

    monkeypatch.setitem(sys.modules, "records_reader", sys.modules[__name__])
    return Domain("arrays", "Arrays", "arrays", "records_reader:Reader", "records_reader:Options", ("z", "y", "x"))


@pytest.mark.parametrize("shape", [(5000,), (100, 120), (20, 24, 28)])
def test_copies_among_records_of_every_rank(domain: Domain, tmp_path: Path, shape: tuple[int, ...]) -> None:
    """Two channels that cancel; an equal record and one with noise of 0.5 % go, two others stay."""
    for i, name in enumerate(("a0", "a1", "b0")):
        noise = np.random.default_rng(i).standard_normal(shape).astype(np.float32)
        for axis in range(len(shape)):
            noise = np.apply_along_axis(
                np.convolve, axis, noise, np.ones(4 * 5000 // 4096 if len(shape) == 1 else 8), "same"
            )
        np.save(tmp_path / f"{name}.npy", np.stack([noise, -noise]).astype(np.float32))
    first = np.load(tmp_path / "a0.npy")
    np.save(tmp_path / "c0.npy", first)
    np.save(tmp_path / "c1.npy", first * np.float32(1.005))
    found = read_records(Corpus.open(domain, Data(path=tmp_path)))
    assert found.rank == len(shape) and found.grey.shape == (5, *CELLS[len(shape)])
    assert found.grey.std() > 20  # the channels have not vanished
    gone = Duplicates(Duplicates.Options()).run(found, np.ones(5, bool))
    assert {(found.keys[d.item], found.keys[d.like]) for d in gone} == {("c0", "a0"), ("c1", "a0")}
    if len(shape) == 2:
        assert found.picture(0).shape == (*shape, 2)
    else:
        with pytest.raises(RequestError, match=f"these records have {len(shape)} axes"):
            found.picture(0)


def test_keep(domain: Domain, tmp_path: Path) -> None:
    """Only what the manifest kept is used; one that does not know a record, or keeps none, or is none, is answered."""
    data = tmp_path / "data"
    data.mkdir()
    for i in range(3):
        np.save(data / f"r{i}.npy", np.full((1, 8), i, np.float32))
    file = tmp_path / "manifest.parquet"

    def opened(keys: list[str], kept: list[bool]) -> Corpus:
        pq.write_table(pa.table({"key": keys, "kept": kept}), file)
        return Corpus.open(domain, Data(path=data, keep=file))

    some = opened(["r0", "r1", "r2", "gone"], [True, False, True, True])
    assert [r.key for r in some.rows] == ["r0", "r2"]
    assert (
        some.fingerprint != Corpus.open(domain, Data(path=data)).fingerprint
    )  # so a run with another one is not resumed
    with pytest.raises(RequestError, match=r"does not know 1 of 3 records of .*, as 'r1'; curate that folder again"):
        opened(["r0", "r2"], [True, True])
    with pytest.raises(RequestError, match=r"kept by manifest\.parquet: there is no readable record"):
        opened(["r0", "r1", "r2"], [False] * 3)
    file.write_text("no parquet")
    with pytest.raises(RequestError, match="is no manifest of `curate`"):
        Corpus.open(domain, Data(path=data, keep=file))


def test_keep_lies_beside_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{domain: earth, data: {path: d, keep: m.parquet}, method: {name: mae}, encoder: {name: tokens}}")
    assert read_recipe(recipe).data.keep == tmp_path / "m.parquet"
    assert absolute(read_recipe(recipe)).data.keep == (tmp_path / "m.parquet").resolve()
