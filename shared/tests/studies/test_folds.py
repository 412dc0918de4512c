"""Named folds: what is left out, what is in none, and files that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from unlabeled.core.contracts import Leakage, RequestError
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.studies.plan import Plan
from unlabeled.core.studies.protocol import protocol
from unlabeled.core.studies.run import planned


def made(recipe: Recipe, **changes: Any) -> Plan:
    plan, _ = planned(recipe.model_copy(update={"study": recipe.study.model_copy(update=changes)}))
    return plan


def named(recipe: Recipe, path: Path, folds: dict[str, str]) -> Plan:
    path.write_text("\n".join(["key,fold", *(f"{key},{fold}" for key, fold in folds.items())]) + "\n")
    return made(recipe, folds=path)


WEST = {f"{key}": "west" for key in ("w0/r0", "w0/r1", "w1/r0", "w2/r0")}
EAST = {f"{key}": "east" for key in ("e0/r0", "e1/r0", "e2/r0")}


def test_each_fold_is_left_out_once_and_the_gap_is_in_none(ground_recipe: Recipe) -> None:
    plan = made(ground_recipe)
    of = {key.partition("/")[0]: group for key, group in zip(plan.keys, plan.groups, strict=True)}
    east, west = plan.folds
    assert (east.name, west.name) == ("east", "west")
    assert set(east.test) == {of["e0"], of["e1"], of["e2"]} == set(west.train)
    # of the west there is one group more, which has no label: it is pretrained on, left out with the west, never tested
    assert set(west.test) == set(east.train) and len(west.test) == 4
    assert set(plan.tested) == {of[g] for g in ("w0", "w1", "w2", "e0", "e1", "e2")}
    nowhere = of["gap"]
    assert all(nowhere not in (*fold.train, *fold.test) for fold in plan.folds)
    for fold in range(2):
        for budget in plan.budgets:
            for units in plan.label_draws(fold, budget):
                assert {plan.groups[u] for u in units} <= set(plan.folds[fold].train)


def test_folds_of_records(recipe: Recipe, toy: Path, tmp_path: Path) -> None:
    folds = {f"s{g}/r{i}": ("a", "b", "c")[g // 2] for g in range(5) for i in range(4)}
    plan = named(recipe, tmp_path / "folds.csv", folds)
    of = {key.partition("/")[0]: group for key, group in zip(plan.keys, plan.groups, strict=True)}
    assert [(f.name, set(f.test)) for f in plan.folds] == [
        ("a", {of["s0"], of["s1"]}),
        ("b", {of["s2"], of["s3"]}),
        ("c", {of["s4"]}),
    ]
    assert [len(f.train) for f in plan.folds] == [3, 3, 4]
    assert of["s5"] not in plan.tested and plan.unit == "record" and plan.metric == "macro-F1"


def test_forward_trains_on_earlier_folds_alone(recipe: Recipe, toy: Path, tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    of_fold = {f"s{g}/r{i}": f"2026-0{g // 2 + 1}" for g in range(6) for i in range(4)}
    path.write_text("\n".join(["key,fold", *(f"{key},{fold}" for key, fold in of_fold.items())]) + "\n")
    plan = made(recipe, folds=path, forward=True)
    of = {key.partition("/")[0]: group for key, group in zip(plan.keys, plan.groups, strict=True)}
    assert [(f.name, set(f.train), set(f.test)) for f in plan.folds] == [
        ("2026-02", {of["s0"], of["s1"]}, {of["s2"], of["s3"]}),
        ("2026-03", {of["s0"], of["s1"], of["s2"], of["s3"]}, {of["s4"], of["s5"]}),
    ]
    assert "of earlier folds" in protocol(plan)["splits"] and "earlier" not in protocol(made(recipe))["splits"]
    with pytest.raises(RequestError, match=r"study\.forward needs folds in order of time"):
        made(recipe, forward=True)


def test_a_group_in_two_folds_is_leakage(ground_recipe: Recipe, tmp_path: Path) -> None:
    for other, where in (("east", "in 'east'"), ("", "in none")):
        with pytest.raises(
            Leakage, match=f"'w0/r0' and 'w0/r1' are of one group, but .* 'west' and the second {where}"
        ):
            named(ground_recipe, tmp_path / "folds.csv", {**WEST, **EAST, "w0/r1": other})


def test_files_that_cannot_be_used(ground_recipe: Recipe, tmp_path: Path) -> None:
    path = tmp_path / "folds.csv"
    with pytest.raises(
        RequestError, match=r"folds.csv: no such file of folds \(study.folds\); name a CSV with .* key and fold"
    ):
        made(ground_recipe, folds=path)
    with pytest.raises(RequestError, match=r"are in 1 fold\(s\), and two are needed"):
        named(ground_recipe, path, WEST)
    with pytest.raises(RequestError, match=r"are in 0 fold\(s\)"):
        named(ground_recipe, path, {"w0/r0": "", "w0/r1": ""})
    with pytest.raises(RequestError, match="1 of 8 keys are no record of the data"):
        named(ground_recipe, path, {**WEST, **EAST, "w9/r0": "west"})
    with pytest.raises(RequestError, match="the fold 'north' has no labelled point"):
        named(ground_recipe, path, {**WEST, **EAST, "bare/r0": "north"})
    with pytest.raises(RequestError, match="must name key and fold"):
        path.write_text("key,part\nw0/r0,west\n")
        made(ground_recipe, folds=path)
    with pytest.raises(RequestError, match="line 3: 'w0/r0' is in the fold 'east' here and in 'west' in line 2"):
        path.write_text("key,fold\nw0/r0,west\nw0/r0,east\n")
        made(ground_recipe, folds=path)


def test_every_fold_keeps_every_class_to_train_on(ground_recipe: Recipe, tmp_path: Path) -> None:
    # class 7 is in the west only: with every cell a point, nothing in the east can teach it
    with pytest.raises(RequestError, match="fold 'west': the class '7' has no labelled point left to train on"):
        made(ground_recipe, every=1)


def test_one_group_to_train_on_leaves_none_to_choose_a_rate(ground_recipe: Recipe, tmp_path: Path) -> None:
    two = {"w1/r0": "west", "e1/r0": "east"}
    with pytest.raises(RequestError, match="each holds the only points of a class; label more points"):
        named(ground_recipe, tmp_path / "folds.csv", two)
