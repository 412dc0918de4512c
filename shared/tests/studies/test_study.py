"""One whole study on data whose labels nothing tells."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.studies import study, text
from unlabeled.core.studies.run import planned

STARTS = {
    "stats+logreg",
    "stats+forest",
    "ours, frozen",
    "random weights, frozen",
    "ours + stats",
    "random weights + stats",
    "ours, fine-tuned",
    "random weights, fine-tuned",
}


@pytest.fixture(scope="module")
def out(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "out"
    lines: list[tuple[int, int, str]] = []
    study(recipe, folder, lambda *line: lines.append(line), real="synthetic: noise")
    # 3 folds: one job of baselines each, and one for each of 2 seeds
    assert [done for done, _, _ in lines] == list(range(10))
    return folder


@pytest.fixture
def report(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / "study.json").read_text())
    return read


def test_everything_is_there(report: dict[str, Any]) -> None:
    assert report["data"]["what"] == "synthetic: noise"
    # 6 groups of 4 records of 64 samples, windows of 16: 24 records, 96 windows; one record has no label
    n = report["n"]
    assert (n["records"], n["labelled_records"], n["records_without_label_or_window"], n["windows"]) == (24, 23, 1, 96)
    assert (n["groups"], n["tested_groups"], n["records_of_class"]) == (6, 6, {"down": 12, "up": 11})
    tested = [g for fold in report["folds"] for g in fold["test"]]
    assert len(tested) == len(set(tested)) == 6
    assert all(len(g) == 16 and set(g) <= set("0123456789abcdef") for g in tested)
    for fold in report["folds"]:
        assert not set(fold["train"]) & set(fold["test"])
        assert len(fold["train"]) == 4
    # 16 training records (15 where the unlabelled one is among them): 2, half of them, all
    assert [b["title"] for b in report["budgets"]] == ["1 per class", "50 %", "all"]
    assert report["budgets"][0]["records"] == [2, 2, 2]
    assert sorted(report["budgets"][2]["records"]) == [15, 15, 16]
    assert report["seeds"] == [0, 1]
    assert set(report["scores"]) == STARTS
    for start, scores in report["scores"].items():
        assert set(scores) == {"1 per class", "50 %", "all"}
        for budget, score in scores.items():
            assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1
            assert score["seeds"] == (1 if start == "stats+logreg" else 2)
            assert score["draws"] == (1 if budget == "all" or "tuned" in start else 2)


def test_every_baseline_stands_beside_ours(report: dict[str, Any]) -> None:
    pairs = {(d["a"], d["b"]) for d in report["differences"] if d["budget"] == "1 per class"}
    ours = {"ours, frozen", "ours, fine-tuned", "ours + stats"}
    assert pairs == {(a, b) for a in ours for b in ("stats+logreg", "stats+forest")} | {
        ("ours, frozen", "random weights, frozen"),
        ("ours, fine-tuned", "random weights, fine-tuned"),
        ("ours + stats", "random weights + stats"),
    }
    assert len(report["differences"]) == 3 * len(pairs)
    for d in report["differences"]:
        gap = report["scores"][d["a"]][d["budget"]]["mean"] - report["scores"][d["b"]][d["budget"]]["mean"]
        if d["draws"] == report["scores"][d["b"]][d["budget"]]["draws"]:
            assert d["mean"] == pytest.approx(gap, abs=1e-12)


def test_noise_is_never_worth_it(report: dict[str, Any]) -> None:
    verdict = report["verdict"]
    assert verdict["budget"] == "1 per class"
    assert verdict["against_random"]["word"] != "paid"
    assert verdict["against_simple"]["word"] != "paid"
    best = max(("stats+logreg", "stats+forest"), key=lambda name: report["scores"][name]["1 per class"]["mean"])
    assert report["best_simple"]["1 per class"] == verdict["against_simple"]["b"] == best
    assert verdict["against_simple"]["a"] == "ours + stats"


def test_learning_rates_come_from_one_grid_once_a_fold(report: dict[str, Any], out: Path) -> None:
    rows = report["learning_rates"]
    assert {(r["fold"], r["start"]) for r in rows} == {(f, s) for f in range(3) for s in ("ours", "random weights")}
    for row in rows:
        assert set(row["scores"]) == {"0.001", "0.01"}
        assert row["scores"][f"{row['lr']:g}"] == max(row["scores"].values())
        for seed in (0, 1):
            job = json.loads((out / "jobs" / f"fold-{row['fold']}-seed-{seed}.json").read_text())
            assert job["choices"][f"{row['start']}, fine-tuned"]["all"] == [[row["lr"]]]


def test_the_table_shows_every_score(report: dict[str, Any]) -> None:
    shown = text(report)
    for start, scores in report["scores"].items():
        line = next(
            part for part in shown.splitlines() if part.startswith(f"{start.replace('random weights', 'random')}  ")
        )
        for budget, score in scores.items():
            few = "*" if "tuned" in start and budget != "all" else " "
            mean, low, high = (f"{score[k]:.3f}".removeprefix("0") for k in ("mean", "low", "high"))
            assert f"{mean} [{low} {high}]{few}" in line
    assert f"against random weights: {report['verdict']['against_random']['word']} (" in shown


def test_a_half_done_study_does_only_what_is_missing(recipe: Recipe, out: Path, report: dict[str, Any]) -> None:
    files = sorted((out / "jobs").glob("*.json"))
    before = {f: f.stat().st_mtime_ns for f in files}
    gone = out / "jobs" / "fold-1-seed-1.json"
    was = json.loads(gone.read_text())
    gone.unlink()
    lines: list[tuple[int, int, str]] = []
    again = study(recipe, out, lambda *line: lines.append(line), real="synthetic: noise")
    assert lines == [(8, 9, ""), (9, 9, "fold-1-seed-1")]
    assert all(f.stat().st_mtime_ns == before[f] for f in files if f != gone)
    now = json.loads(gone.read_text())
    assert {k: v for k, v in now.items() if "seconds" not in k} == {k: v for k, v in was.items() if "seconds" not in k}
    clocks = ("wall_seconds", "job_seconds", "pretraining_seconds")
    assert {k: v for k, v in again.items() if k not in clocks} == {k: v for k, v in report.items() if k not in clocks}


def test_another_study_is_not_mixed_in(recipe: Recipe, out: Path, tmp_path: Path) -> None:
    other = recipe.model_copy(update={"study": recipe.study.model_copy(update={"draws": 3})})
    with pytest.raises(RequestError, match="holds a study of another recipe, other labels or other data"):
        study(other, out)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(RequestError, match="is not empty and no study"):
        study(recipe, tmp_path)


def test_requests_are_checked_before_anything_runs(recipe: Recipe, toy: Path, tmp_path: Path) -> None:
    def changed(**changes: Any) -> Recipe:
        return recipe.model_copy(update={"study": recipe.study.model_copy(update=changes)})

    with pytest.raises(RequestError, match=r"study\.labels is missing"):
        study(changed(labels=None), tmp_path / "a")
    with pytest.raises(RequestError, match=r"study\.budgets: 1\.5 is neither"):
        study(changed(budgets=(1, 1.5)), tmp_path / "a")
    with pytest.raises(RequestError, match="each once"):
        study(changed(budgets=(0.1, 0.1)), tmp_path / "a")
    with pytest.raises(RequestError, match="6 groups cannot be split with 6 left out"):
        study(changed(groups_per_fold=6), tmp_path / "a")
    rows = [["key", "label"], ["s0/r0", "up"], ["s1/r0", "up"], ["s2/r0", "down"]]
    with (tmp_path / "few.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(RequestError, match=r"fold 0: the class 'up' has no labelled record left"):
        study(changed(labels=tmp_path / "few.csv"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_groups_without_labels_are_pretrained_on_and_never_left_out(recipe: Recipe, tmp_path: Path) -> None:
    lines = [f"s{g}/r{i},{'up' if i % 2 else 'down'}" for g in range(4) for i in range(4)]
    (tmp_path / "four.csv").write_text("\n".join(["key,label", *lines]) + "\n")
    few = recipe.study.model_copy(update={"labels": tmp_path / "four.csv", "groups_per_fold": 1})
    plan, windows = planned(recipe.model_copy(update={"study": few}))
    assert windows == 96
    assert [len(f.test) for f in plan.folds] == [1, 1, 1, 1]
    assert all(len(f.train) == 5 for f in plan.folds)
    labelled = {plan.groups[plan.keys.index(f"s{g}/r0")] for g in range(4)}
    assert {g for f in plan.folds for g in f.test} == labelled
