"""What a domain may do in the core's place: read labels of cells its own way, and write maps its own way."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unlabeled.core import finetune, predict
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.downstream.labels import Cells
from unlabeled.core.downstream.tasks import make_task
from unlabeled.core.downstream.write import Record


@pytest.fixture
def hooks(field: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the toy domain, whose cells and mapper are what a test puts there."""
    import field_domain

    own = replace(field_domain.domain, cells="field_domain:cells", mapper="field_domain:mapper")
    monkeypatch.setattr(field_domain, "domain", own)
    monkeypatch.setattr(field_domain, "cells", lambda labels, corpus: None, raising=False)
    return field_domain


def test_a_domain_is_asked_for_cells_first(field: Any, hooks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus.open(domain("field"), Data(path=field.data))
    read: Any = make_task(corpus.domain, "segment", field.labels("masks"), corpus)
    assert read.classes == ("1", "3")  # it had none, and the core read its CSV
    asked = []

    def cells(labels: Path, corpus: Corpus) -> Cells:
        asked.append(labels)
        return Cells(("a", "b"), np.array([0, 1]), tuple(np.eye(24, dtype=int) for _ in corpus.rows))

    monkeypatch.setattr(hooks, "cells", cells)
    made: Any = make_task(corpus.domain, "segment", Path("labels.xyz"), corpus)
    assert made.classes == ("a", "b") and asked == [Path("labels.xyz")]
    assert (made.cells.of(5) == np.eye(24)).all()


def test_a_mapper_writes_in_place_of_the_core(
    field: Any, hooks: Any, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mapper(model: Any, corpus: Corpus, out: Path, formats: Any, update: Any) -> Any:
        assert corpus.domain is hooks.domain and model.about.classes == ("1", "3")
        (out / "all.txt").write_text(",".join(formats))
        update(1, 1)
        yield Record("everything", "", (), mask="all.txt")

    monkeypatch.setattr(hooks, "mapper", mapper, raising=False)
    few: dict[str, Any] = {"steps": 2, "looks": 1, "accelerator": "cpu"}
    segmenter = finetune(bundle, field.data, field.labels("masks"), "segment", tmp_path / "m", **few)
    told: list[tuple[int, int]] = []
    found = predict(
        segmenter, field.data, tmp_path / "p", formats=["csv", "count"], on_progress=lambda *at: told.append(at)
    )
    assert [r.key for r in found.records] == ["everything"] and told == [(1, 1)]
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == [
        "all.txt",
        "count.txt",
        "predictions.csv",
        "predictions.json",
    ]
    assert (tmp_path / "p/all.txt").read_text() == "csv,count"
    about = json.loads((tmp_path / "p/predictions.json").read_text())
    assert about["codes"] == {"1": 1, "3": 3} and about["left_out"] == []
    # what is no segmentation is not mapped
    classifier = finetune(bundle, field.data, field.labels("classes"), "classify", tmp_path / "c", **few)
    assert len(predict(classifier, field.data, tmp_path / "q").records) == 24
    assert not (tmp_path / "q/all.txt").exists()
