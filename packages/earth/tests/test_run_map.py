"""The map in the report of a pretraining: coloured by rasters of labels, against the scene's own ground."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from unlabeled.core.contracts.recipe import read_recipe
from unlabeled.core.evaluation.look import read
from unlabeled.core.pretraining import pretraining_items
from unlabeled.core.report import pretrain

from .data import land


@pytest.fixture(autouse=True)
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))


def test_rasters_colour_windows_by_what_most_of_their_cells_are(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of the blocks are held out. The first row of blocks has no label; elsewhere windows of 8 x 8 cells are forest
    or water by the count of their cells, and water, the lower code, where there are as many."""
    cover = land.cover(land.scene(tmp_path / "data" / "a.tif"))
    cover[:24] = 0
    land.write(tmp_path / "labels.tif", cover, nodata=0)
    land.classes(tmp_path)
    text = land.RECIPE.format(data="data") + "study: {task: segment, labels: labels.tif}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    recipe = read_recipe(tmp_path / "recipe.yaml", ["data.hold_out=0.5"])
    with caplog.at_level(logging.WARNING):
        pretrain(recipe, tmp_path / "run")
    assert not [r.getMessage() for r in caplog.records if "report goes without" in r.getMessage()]
    look = read(tmp_path / "run" / "look.npz")
    items, _ = pretraining_items(recipe)
    expected = []
    for i, record in enumerate(items.record):
        row = items.corpus.rows[record]
        place = items.corpus.reader.place(items.corpus.file(row), row.part)
        top = round((land.ORIGIN[1] - place.transform.f) / land.STEP) + items.start[i, 0]
        left = round((place.transform.c - land.ORIGIN[0]) / land.STEP) + items.start[i, 1]
        part = cover[top : top + 8, left : left + 8]
        forest, water = (part == 4).sum(), (part == 1).sum()
        expected.append("" if forest + water == 0 else "forest" if forest > water else "water")
    assert {"forest", "water", ""} == set(expected)
    assert np.array([*look.classes, ""])[look.label].tolist() == expected
    assert "by the label that most labelled cells of an item have" in (tmp_path / "run" / "report.html").read_text()
