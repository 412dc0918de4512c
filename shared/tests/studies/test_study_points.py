"""One whole study of segmentation, on data whose labels the values tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.report.write import write
from unlabeled.core.studies import compare, study, text
from unlabeled.core.studies.plan import Plan, planned_in
from unlabeled.core.studies.run import planned

BASELINES = {"values+forest", "values+logreg"}
OURS = {"ours, frozen", "ours + values", "ours, fine-tuned"}


@pytest.fixture(scope="module")
def out(ground_recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "out"
    study(ground_recipe, folder, real="synthetic: squares")
    return folder


@pytest.fixture
def report(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / "study.json").read_text())
    return read


@pytest.fixture(scope="module")
def plan(out: Path) -> Plan:
    return planned_in(out)


def test_the_plan_is_kept_whole(plan: Plan, ground_recipe: Recipe) -> None:
    assert plan == planned(ground_recipe)[0]
    assert (plan.unit, plan.metric) == ("point", "mIoU")
    assert "folds" not in plan.recipe["study"]  # a path; what it says is in the plan's folds


def test_points_are_counted(report: dict[str, Any], plan: Plan) -> None:
    n, labels = report["n"], np.array(plan.labels)
    where = np.array([key[:3] for key in plan.keys])
    assert n["points"] == len(plan.keys)
    assert n["labelled_points_in_no_fold"] == 64 == (where == "gap").sum()
    assert n["labelled_points"] == len(plan.keys) - 64
    assert (n["groups"], n["tested_groups"], n["points_without_label_or_window"]) == (7, 6, 0)
    inside = labels[where != "gap"]
    assert n["points_of_class"] == {str(c): int((inside == c).sum()) for c in range(3)}
    # 16 cells and windows of 8, 4 apart: 3 x 3 windows for each of 9 records
    assert n["windows"] == 81
    west, east = (int(sum(w.startswith(letter) for w in where)) for letter in "we")
    assert report["budgets"] == [{"title": "3 per class", "points": [9, 9]}, {"title": "all", "points": [west, east]}]
    assert [f["name"] for f in report["folds"]] == ["east", "west"]


def test_baselines_of_cells_stand_beside_ours(report: dict[str, Any]) -> None:
    controls = {start.replace("ours", "random weights") for start in OURS}
    assert set(report["scores"]) == BASELINES | OURS | controls
    assert report["verdict"]["against_simple"]["a"] == "ours + values"
    assert report["verdict"]["against_simple"]["b"] in BASELINES


def test_what_the_values_tell_is_learned(report: dict[str, Any]) -> None:
    # the classes' means lie 2.8 and more apart in two channels of deviation 0.5: a cell alone is told apart in 99 % and
    # more, a token of 4 cells of one class nearly always
    scores = {start: s["all"]["mean"] for start, s in report["scores"].items()}
    assert scores["values+logreg"] > 0.95
    assert min(scores[start] for start in OURS) > 0.8
    assert all(s["all"]["low"] <= s["all"]["mean"] <= s["all"]["high"] <= 1 for s in report["scores"].values())


def test_the_score_is_the_jaccard_index_of_all_points_at_once(out: Path, report: dict[str, Any], plan: Plan) -> None:
    labels = np.array(plan.labels)
    for start in ("values+logreg", "ours, frozen", "ours, fine-tuned"):
        job = "fold-{}" if start in BASELINES else "fold-{}-seed-0"
        jobs = [json.loads((out / "jobs" / f"{job.format(f)}.json").read_text()) for f in range(2)]
        test = np.concatenate([j["test_points"] for j in jobs])
        assert sorted(test) == plan.of(tuple(plan.tested)).tolist()
        predicted = np.concatenate([j["predictions"][start]["all"][0][0] for j in jobs])
        expected = jaccard_score(labels[test], predicted, average="macro")
        assert report["scores"][start]["all"]["mean"] == pytest.approx(expected, abs=1e-12)


def test_baselines_know_the_training_records_only(out: Path, plan: Plan) -> None:
    # the last feature is the number of records it was fitted on: 3 of the east, or 4 of the west and one without labels
    east, west = (np.load(out / "jobs" / f"fold-{f}.features.npy") for f in range(2))
    assert east.shape == west.shape == (len(plan.keys), 3)
    assert set(east[:, 2]) == {5} and set(west[:, 2]) == {3}


def test_the_texts_say_points(report: dict[str, Any], out: Path) -> None:
    shown = text(report)
    assert f"{report['n']['labelled_points']} labelled points of 6 groups, 3 classes" in shown
    assert "mIoU [95 % interval" in shown and "(9 points)" in shown
    assert "record" not in shown and "F1" not in shown
    write(out)
    page = (out / "report.html").read_text()
    assert f"{report['n']['labelled_points']} labelled points of 6 groups" in page
    assert "mIoU against labelled points" in page and "64 labelled points are in no fold" in page
    assert "acro-F1" not in page
    assert report["protocol"]["points"].startswith("one cell in 2 along each axis")


def test_studies_of_points_are_paired(out: Path) -> None:
    other = out.parent / "again"
    other.mkdir()
    for file in ("plan.json", "study.json"):
        (other / file).write_bytes((out / file).read_bytes())
    (other / "jobs").symlink_to(out / "jobs")
    rows = compare([out, other])["differences"]
    assert len(rows) == 2 * len(BASELINES | OURS | {s.replace("ours", "random weights") for s in OURS})
    assert all((r["mean"], r["low"], r["high"]) == (0, 0, 0) for r in rows)
