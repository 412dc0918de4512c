"""Windows of records: which are cut, and how they are read where records are large."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from unlabeled.core.contracts import BadInput, Constants, Domain, Input, RequestError, Sample
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.data import corpus as corpora
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.items import covering, cut
from unlabeled.core.data.manifest import scan

HEIGHT, WIDTH, HALF = 12, 20, 10


class Options(BaseModel):
    pass


class Seeker:
    """FILE.npy of (H, W), NaN invalid, gives two records, its left and its right half; counts what it reads."""

    read_cells = 0

    def __init__(self, options: Options, root: Path) -> None:
        pass

    def files(self, root: Path) -> list[Path]:
        return sorted(root.glob("*.npy"))

    def read(self, path: Path) -> Iterator[Sample]:
        yield self.part(path, 0)
        if path.stem == "broken":
            raise BadInput(f"{path.name} ends in its middle; copy it again")
        yield self.part(path, 1)

    def part(self, path: Path, part: int) -> Sample:
        return self.window(path, part, (slice(0, HEIGHT), slice(0, HALF)))

    def window(self, path: Path, part: int, region: tuple[slice, ...]) -> Sample:
        rows, columns = region
        at = slice(HALF * part + columns.start, HALF * part + columns.stop)
        values = np.load(path, mmap_mode="r")[rows, at]
        type(self).read_cells += values.size
        valid = ~np.isnan(values)[None]
        x = Input(np.where(valid, values, 0).astype(np.float32), ("h",), ("m",), unit="m", spacing=(2, 2), valid=valid)
        return Sample({"x": x}, key=f"{path.stem}#{part}", group=path.stem)


def tens(spec: Any, source: str) -> Constants:
    return Constants(offset=(10.0,) * spec.width, scale=(2.0,) * spec.width)


DOMAIN = Domain(
    name="seek",
    title="",
    summary="",
    reader=f"{__name__}:Seeker",
    options=f"{__name__}:Options",
    axes=("y", "x"),
    normalisers={"tens": f"{__name__}:tens"},
)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))


def write(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for number, name in enumerate(names):
        values = np.arange(HEIGHT * WIDTH, dtype=np.float64).reshape(HEIGHT, WIDTH) + 1000 * number
        values[2:7, 3:6] = np.nan
        np.save(folder / f"{name}.npy", values)
    return folder


def opened(folder: Path, **data: Any) -> Corpus:
    return Corpus.open(DOMAIN, Data(path=folder, **data)).normalised("none")


def test_cut_keeps_what_is_valid(tmp_path: Path) -> None:
    """Against a loop over all corners: windows of 4 x 6 cells every 2 x 4, of which 0.8 is valid."""
    corpus = opened(write(tmp_path / "a", "one"))
    items = cut(corpus, (8.0, 12.0), (4.0, 8.0), min_valid=0.8)
    expected = []
    for record in range(2):
        valid = corpus.record(record).inputs["x"].valid
        assert valid is not None
        for y, x in product(range(0, HEIGHT - 4 + 1, 2), range(0, HALF - 6 + 1, 4)):
            if valid[0, y : y + 4, x : x + 6].sum() >= 0.8 * 24:
                expected.append((record, y, x))
    found = [(int(r), int(y), int(x)) for r, (y, x) in zip(items.record, items.start, strict=True)]
    assert found == expected
    assert 0 < len([f for f in found if f[0] == 0]) < 10  # the hole lies in the left half: some windows are left out
    assert items.record.dtype == items.start.dtype == np.int32


def test_windows_are_read_alone_where_records_do_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "a", "one", "two")
    kept = cut(opened(folder), (8.0, 8.0), min_valid=0.5)
    monkeypatch.setattr(corpora, "KEPT_BYTES", 100)
    corpus = opened(folder)
    items = cut(corpus, (8.0, 8.0), min_valid=0.5)
    corpus._cache.clear()
    expected = [kept.sample(i).inputs["x"] for i in range(len(kept))]
    before = Seeker.read_cells
    for i, b in enumerate(expected):
        a = items.sample(i).inputs["x"]
        np.testing.assert_array_equal(a.data, b.data)
        np.testing.assert_array_equal(a.valid, b.valid)
    assert Seeker.read_cells - before == 16 * len(items)  # no cell that is in no window


def test_a_region_beyond_the_end_stops_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "KEPT_BYTES", 100)
    items = covering(opened(write(tmp_path / "a", "one")), (64.0, 64.0))
    assert len(items) == 2 and items.sample(1).inputs["x"].shape == (HEIGHT, HALF)


def test_a_file_that_breaks_in_its_middle_is_left_out_whole(tmp_path: Path) -> None:
    manifest, _ = scan(DOMAIN, Data(path=write(tmp_path / "a", "broken", "one")))
    assert [(r.file, r.ok) for r in manifest] == [("broken.npy", False), ("one.npy", True), ("one.npy", True)]
    assert manifest.bad[0].reason == "broken.npy ends in its middle; copy it again"


def test_fixed_normalisers_are_the_domains(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", "one")
    corpus = Corpus.open(DOMAIN, Data(path=folder))
    x = corpus.normalised("tens").record(1).inputs["x"]
    assert x.data[0, 0, 0] == 0.0 and x.data[0, 0, 1] == 0.5  # (10 - 10) / 2 and (11 - 10) / 2
    assert corpus.normalised("tens").specs["x"].normaliser.method == "tens"
    with pytest.raises(RequestError, match="'tenz' is unknown, did you mean 'tens'"):
        corpus.normalised("tenz")


def test_records_without_a_window_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The left half of a file has a hole: no window of 12 x 10 cells there is whole. As in the jobs of a study, which cut
    the whole corpus and parts of it, under other constants."""
    corpus = opened(write(tmp_path / "a", "one", "two"))
    part = corpus.only([corpus.rows[0].group])

    def said(corpus: Corpus, window: tuple[float, float], min_valid: float = 1.0) -> list[str]:
        caplog.clear()
        cut(corpus, window, min_valid=min_valid)
        return [r.getMessage() for r in caplog.records if "give no window" in r.getMessage()]

    whole = (24.0, 20.0)
    assert said(part, whole) == ["1 of 2 records give no window: one#0"]
    assert said(part, whole) == said(part.normalised("standard"), whole) == []
    assert said(corpus, whole) == ["2 of 4 records give no window: one#0, two#0"]  # one that was not named before
    assert said(corpus, whole) == said(part, whole) == said(opened(tmp_path / "a"), whole) == []
    assert said(corpus, (22.0, 20.0)) == ["2 of 4 records give no window: one#0, two#0"]  # another question
    assert said(corpus, (22.0, 20.0), 0.5) == []
    assert len(said(opened(write(tmp_path / "b", "one")), whole)) == 1
