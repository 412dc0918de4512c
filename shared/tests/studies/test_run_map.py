"""The map in the report of a pretraining: what colours it, by what the recipe's study labels."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.evaluation.look import read
from unlabeled.core.pretraining import pretraining_items
from unlabeled.core.report import pretrain


def test_labels_of_records_colour_their_windows(recipe: Recipe, toy: Path, tmp_path: Path) -> None:
    pretrain(recipe, tmp_path / "run")
    look = read(tmp_path / "run" / "look.npz")
    items, _ = pretraining_items(recipe)
    keys = [items.corpus.rows[r].key for r in items.record]  # fewer than are drawn at most
    lines = (line.split(",") for line in (toy / "labels.csv").read_text().splitlines()[1:])
    code = {key: ("down", "up").index(label) for key, label in lines}
    assert look.classes == ("down", "up") and look.missing.keys() == {"pictures"}
    assert look.label.tolist() == [code.get(key, -1) for key in keys]
    np.testing.assert_array_equal(look.group, np.array(items.corpus.groups)[items.record])
    assert (look.label == -1).any() and "by label; pretraining saw none" in (tmp_path / "run/report.html").read_text()


def test_cells_in_a_csv_colour_nothing_and_nobody_is_warned(
    ground_recipe: Recipe, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        pretrain(ground_recipe, tmp_path / "run")
    look = read(tmp_path / "run" / "look.npz")
    assert len(look.points) == len(look.label) > 0 and set(look.label.tolist()) == {-1}
    assert "labels" not in look.missing and not [r for r in caplog.records if "report goes without" in r.getMessage()]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "coloured by label" not in page and "by label;" not in page
