"""The guard of values and sizes: another scale or size than pretraining's is refused with numbers, and allowed by name.

The images are heights in m: Gaussian fields of deviation 1 or so, windows of 16 x 16 cells; the bundle saw a third of them.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from unlabeled.core import finetune, predict
from unlabeled.core.bundle import read_bundle
from unlabeled.core.contracts import Incompatible
from unlabeled.core.data.items import evaluated
from unlabeled.core.evaluation.evaluate import embed, evaluate, under
from unlabeled.core.evaluation.guard import check_size, pretraining_cells

QUICK = {"steps": 2, "looks": 1, "accelerator": "cpu"}


def changed(field, to: Path, change) -> Path:
    for path in sorted(field.data.glob("*/*.npy")):
        (to / path.parent.name).mkdir(parents=True, exist_ok=True)
        np.save(to / path.parent.name / path.name, change(np.load(path)).astype(np.float32))
    return to


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x: x * 1000, "values of 'x' lie between"),  # millimetres under the name of m: spread 1000 > 20 times
        (lambda x: x / 1000, "values of 'x' lie between"),  # kilometres: range and deviation a 1000th, below a 20th
        (lambda x: x + 500, r"median (499|500)"),  # above all that pretraining saw
        (lambda x: np.clip(128 + 30 * x, 0, 255).round(), "look like a picture of 8 bits"),
    ],
)
def test_another_scale_is_refused_everywhere_and_allowed_by_name(field, bundle, tmp_path, change, said):
    folder = changed(field, tmp_path / "data", change)
    with pytest.raises(Incompatible, match=said) as error:
        under(read_bundle(bundle), folder)
    low, high = read_bundle(bundle).specs["x"].value_range
    assert f"pretraining saw {low:g} to {high:g} m" in str(error.value) and "--convert range" in str(error.value)
    with pytest.raises(Incompatible, match=said):
        embed(bundle, folder, tmp_path / "e.parquet")
    assert embed(bundle, folder, tmp_path / "e.parquet", convert=["range"]) == 24 * 4


@pytest.mark.parametrize("change", [lambda x: x, lambda x: -x, lambda x: 5 * x, lambda x: x / 5 + 0.5])
def test_other_ground_of_the_same_scale_passes(field, bundle, tmp_path, change):
    assert len(under(read_bundle(bundle), changed(field, tmp_path / "data", change))) == 24


def test_a_score_stands_beside_what_was_fed(field, bundle):
    found = evaluate(bundle, field.data, field.labels("classes"))
    assert found["fed"] == {"pretraining_cells": (16, 16), "cells": (16, 16), "normaliser": {"x": "standard"}}
    assert pretraining_cells(read_bundle(bundle)) == (16, 16)


@pytest.mark.parametrize(("side", "fits"), [(8, True), (32, True), (7, False), (33, False)])
def test_size_within_twice_and_half(field, bundle, tmp_path, side, fits):
    """Whole records of another size than the bundle's 16 x 16: what chips of another data set are."""
    about = json.loads((bundle / "bundle.json").read_text())
    about["recipe"]["data"] |= {"window": None, "stride": None}
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(about))
    whole = read_bundle(tmp_path / "bundle")
    folder = changed(field, tmp_path / "data", lambda x: np.resize(x, (side, side)))

    def check(given, **options):
        corpus = under(given, folder, **options)
        check_size(given, evaluated(corpus, corpus.data, given.evaluation))

    if fits:
        check(whole)
        return
    with pytest.raises(Incompatible, match=f"have {side} x {side} cells, pretraining's had 16 x 16.*--convert size"):
        check(whole)
    check(whole, convert=["size"])
    about["recipe"]["evaluation"]["window"] = [side / 2, side / 2]  # stated in the recipe
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(about))
    check(read_bundle(tmp_path / "bundle"))


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", text)]


def test_finetune_and_predict_refuse_another_scale_and_allow_it_by_name(field, bundle, tmp_path):
    """Millimetres under the name of m. Looked at are 4 of the 24 records, evenly apart: 0, 8, 15 and 23."""
    folder, labels = changed(field, tmp_path / "data", lambda x: 1000 * x), field.labels("classes")
    files = sorted(folder.glob("*/*.npy"))
    values = np.concatenate([np.load(files[i]).ravel() for i in (0, 8, 15, 23)])
    first, median, last = np.percentile(values, (1, 50, 99))
    model = finetune(bundle, field.data, labels, "classify", tmp_path / "model", **QUICK)
    for refuses in (
        lambda to: finetune(bundle, folder, labels, "classify", to, **QUICK),
        lambda to: predict(model, folder, to),
    ):
        with pytest.raises(Incompatible, match="--convert range") as error:
            refuses(tmp_path / "none")
        said = str(error.value).partition("values of 'x'")[2]
        wanted = [first, last, median, *read_bundle(bundle).specs["x"].value_range]
        assert numbers(said)[:5] == pytest.approx(wanted, rel=1e-3)
        assert not (tmp_path / "none").exists()
    assert len(predict(model, folder, tmp_path / "a", convert=["range"]).records) == 24
    allowed = finetune(bundle, folder, labels, "classify", tmp_path / "allowed", convert=["range"], **QUICK)
    assert len(predict(allowed, folder, tmp_path / "b").records) == 24  # made for such values, it takes them again


def test_finetune_and_predict_refuse_records_of_another_size(field, bundle, tmp_path):
    """Whole records of 36 x 36 cells, over twice the bundle's 16 x 16; those of the field, 24 x 24, are not."""
    whole = shutil.copytree(bundle, tmp_path / "bundle")
    about = json.loads((whole / "bundle.json").read_text())
    about["recipe"]["data"] |= {"window": None, "stride": None}
    (whole / "bundle.json").write_text(json.dumps(about))
    folder, labels = changed(field, tmp_path / "data", lambda x: np.resize(x, (36, 36))), field.labels("classes")
    model = finetune(whole, field.data, labels, "classify", tmp_path / "model", **QUICK)
    assert len(predict(model, field.data, tmp_path / "own").records) == 24
    for refuses in (
        lambda to: finetune(whole, folder, labels, "classify", to, **QUICK),
        lambda to: predict(model, folder, to),
    ):
        with pytest.raises(Incompatible, match=r"have 36 x 36 cells, pretraining's had 16 x 16.*--convert size"):
            refuses(tmp_path / "none")
        assert not (tmp_path / "none").exists()
    assert len(predict(model, folder, tmp_path / "a", convert=["size"]).records) == 24
    allowed = finetune(whole, folder, labels, "classify", tmp_path / "allowed", convert=["size"], **QUICK)
    assert len(predict(allowed, folder, tmp_path / "b").records) == 24
    named = finetune(whole, folder, labels, "classify", tmp_path / "named", window=(18.0, 18.0), **QUICK)
    assert len(predict(named, folder, tmp_path / "c").records) == 24  # 36 cells again, but somebody asked for them
