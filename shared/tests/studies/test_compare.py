"""Runs and studies side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from unlabeled.core.cli.main import app
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.pretraining import pretrain
from unlabeled.core.studies import compare, study
from unlabeled.core.studies.side_by_side import flattened

pytestmark = pytest.mark.slow  # three runs and three studies before the first test


def studying(recipe: Recipe, **changes: Any) -> Recipe:
    return recipe.model_copy(update={"study": recipe.study.model_copy(update=changes)})


@pytest.fixture(scope="module")
def runs(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs that differ in steps and temperature, one on other data; studies a and b of one plan, c of fewer draws."""
    folder = tmp_path_factory.mktemp("runs")
    other = recipe.model_copy(update={"max_steps": 6, "method": recipe.method.model_copy(update={"temperature": 0.5})})
    pretrain(recipe, folder / "plain")
    pretrain(other, folder / "warm")
    held = recipe.data.model_copy(update={"hold_out": 0.2})
    pretrain(recipe.model_copy(update={"data": held}), folder / "less")
    small = {"seeds": 1, "budgets": (1, 1.0), "lr_grid": (1e-2,)}
    study(studying(recipe, **small), folder / "a")
    study(studying(other, **small), folder / "b")
    study(studying(recipe, **{**small, "draws": 1}), folder / "c")
    return folder


def test_runs_side_by_side(runs: Path) -> None:
    found = compare([runs / "plain", runs / "warm"])
    assert found["recipe"] == {
        "method.temperature": {"plain": None, "warm": 0.5},
        "max_steps": {"plain": 4, "warm": 6},
    }
    assert found["same_data"] is True
    assert [r["steps"] for r in found["runs"].values()] == [4, 6]
    for name, about in found["runs"].items():
        lines = [json.loads(line) for line in (runs / name / "metrics.jsonl").read_text().splitlines()]
        # a tenth of 4 and of 6 steps is one step at least: the last
        assert about["last_loss"] == pytest.approx(lines[-1]["loss"])
        assert about["metrics"]["grad_norm"] == pytest.approx(lines[-1]["grad_norm"])
        assert about["finished"] and about["skipped"] == 0
    assert found["differences"] == [] and found["not_paired"] == {}


def test_other_data_are_told_apart(runs: Path) -> None:
    found = compare([runs / "plain", runs / "less"])
    assert found["same_data"] is False
    assert list(found["recipe"]) == ["data.hold_out"]


def test_studies_of_one_plan_are_paired(runs: Path) -> None:
    found = compare([runs / "a", runs / "b"])
    scores = {name: json.loads((runs / name / "study.json").read_text())["scores"] for name in "ab"}
    rows = {(d["start"], d["budget"]): d for d in found["differences"]}
    # every start of the studies, at both budgets
    assert set(rows) == {(s, b) for s, of in scores["a"].items() for b in of}
    for (start, budget), d in rows.items():
        assert (d["a"], d["b"]) == ("b", "a")
        gap = scores["b"][start][budget]["mean"] - scores["a"][start][budget]["mean"]
        assert d["mean"] == pytest.approx(gap, abs=1e-12)
        assert d["low"] <= d["mean"] <= d["high"]
    # baselines and random weights do not depend on the method: the differences are 0, with no width
    for start in ("stats+logreg", "random weights, frozen", "random weights + stats"):
        assert (rows[start, "all"]["low"], rows[start, "all"]["high"]) == (0, 0)
    assert set(found["recipe"]) == {"method.temperature", "max_steps"}


def test_what_is_not_paired_is_said(runs: Path, tmp_path: Path) -> None:
    found = compare([runs / "a", runs / "c"])
    assert found["differences"] == []
    assert found["not_paired"] == {"c": "not the same number of label draws"}
    # a study that is not finished, and one on other labels
    (tmp_path / "jobs").mkdir()
    plan = json.loads((runs / "a" / "plan.json").read_text())
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    [why] = compare([runs / "a", tmp_path])["not_paired"].values()
    assert why == f"{tmp_path.name} is not finished: 6 jobs are left"
    (tmp_path / "plan.json").write_text(json.dumps({**plan, "labels": plan["labels"][::-1]}))
    [why] = compare([runs / "a", tmp_path])["not_paired"].values()
    assert why == "not the same labels"


def test_names_and_refusals(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    for file in ("recipe.yaml", "metrics.jsonl", "data.sha256"):
        (tmp_path / "plain" / file).write_bytes((runs / "plain" / file).read_bytes())
    found = compare([runs / "plain", tmp_path / "plain"])
    assert list(found["runs"]) == [f"{runs.name}/plain", f"{tmp_path.name}/plain"]
    assert found["recipe"] == {}
    assert [r["finished"] for r in found["runs"].values()] == [True, False]
    with pytest.raises(RequestError, match="is no run and no study"):
        compare([runs / "plain", tmp_path])
    with pytest.raises(RequestError, match="two run or study folders"):
        compare([runs / "plain"])
    with pytest.raises(RequestError, match="named twice"):
        compare([runs / "plain", runs / "plain"])


def test_the_command(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [str(runs / name) for name in ("plain", "a", "b", "c")]
    assert run(app, ["compare", *folders, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {name: about["kind"] for name, about in found["runs"].items()} == {
        "plain": "run", "a": "study", "b": "study", "c": "study",
    }  # fmt: skip
    assert run(app, ["compare", *folders]) == 0
    shown = capsys.readouterr().out
    assert "max_steps" in shown and "1 per class, ours, frozen: b - a: " in shown
    assert "c cannot be compared with a score by score: not the same number of label draws." in shown
    assert run(app, ["compare", folders[0]]) == 2


def test_flattened() -> None:
    assert flattened({"a": {"b": 1, "c": [1, {"d": 2}]}, "e": None}) == {"a.b": 1, "a.c": [1, {"d": 2}], "e": None}
