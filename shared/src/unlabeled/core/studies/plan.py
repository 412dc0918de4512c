"""What a study does, fixed before anything is computed: folds, budgets, label draws, seeds."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.groups import check_disjoint, distinct
from unlabeled.core.evaluation.labels import UNLABELLED, Labels
from unlabeled.core.measures.confusion import f1_of, iou_of
from unlabeled.core.measures.intervals import Statistic
from unlabeled.core.streams import rng
from unlabeled.core.studies import folds
from unlabeled.core.studies.folds import Fold
from unlabeled.core.studies.starts import check_unseen, named
from unlabeled.core.studies.units import Units

Budget = int | float

METRICS: dict[str, Statistic] = {"macro-F1": f1_of, "mIoU": iou_of}


@dataclass(frozen=True)
class Plan:
    """keys, groups and labels (class codes, -1 without label or window) per unit, U of them; seeds of pretraining.

    A unit is a record; or, where `unit_at` names its cell (U, d), a point of the record `unit_record` (U,).

    data: a hash. starts: names of the off-the-shelf weights. metric: one of `METRICS`.
    """

    recipe: dict[str, Any]
    data: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    groups: tuple[str, ...]
    labels: tuple[int, ...]
    folds: tuple[Fold, ...]
    budgets: tuple[Budget, ...]
    seeds: tuple[int, ...]
    draws: int
    seed: int
    starts: tuple[str, ...] = ()
    metric: str = "macro-F1"
    unit_record: tuple[int, ...] = ()
    unit_at: tuple[tuple[int, ...], ...] = ()

    @property
    def unit(self) -> str:
        return "point" if self.unit_at else "record"

    @property
    def record(self) -> NDArray[np.int64]:
        """(U,) record of every unit."""
        return np.array(self.unit_record) if self.unit_at else np.arange(len(self.keys))

    @property
    def statistic(self) -> Statistic:
        return METRICS[self.metric]

    def check(self) -> None:
        """Raises Leakage where a fold has a group on both sides."""
        for number, fold in enumerate(self.folds):
            check_disjoint(fold.train, fold.test, f"fold {number}")

    @property
    def tested(self) -> list[str]:
        """Groups with a labelled unit that are left out by a fold, in order."""
        return distinct(self.groups[i] for i in self.of(tuple(g for fold in self.folds for g in fold.test)))

    def of(self, groups: tuple[str, ...]) -> NDArray[np.int64]:
        """The labelled units of these groups."""
        there = np.isin(np.array(self.groups), groups) & (np.array(self.labels) != UNLABELLED)
        return np.flatnonzero(there)

    def label_draws(self, fold: int, budget: Budget) -> list[NDArray[np.int64]]:
        """The labelled units of each draw: the same for every start and every pretraining seed."""
        n = 1 if everything(budget) else self.draws
        units = self.of(self.folds[fold].train)
        return [draw(np.array(self.labels), units, budget, self.seed, "fold", fold, i) for i in range(n)]

    def by_size(self) -> list[Budget]:
        """Budgets from the fewest labelled units to the most."""
        return sorted(self.budgets, key=lambda b: sum(len(self.label_draws(f, b)[0]) for f in range(len(self.folds))))


def everything(budget: Budget) -> bool:
    return isinstance(budget, float) and budget >= 1


def title(budget: Budget) -> str:
    """`1 per class`, `10 %`, `all`."""
    if isinstance(budget, int):
        return f"{budget} per class"
    return "all" if everything(budget) else f"{100 * budget:g} %"


def draw(
    labels: NDArray[np.int64], units: NDArray[np.int64], budget: Budget, seed: int, *key: int | str
) -> NDArray[np.int64]:
    """Labelled units, stratified by class, at least one of each class, as a pure function of the key.

    An integer: so many of each class (or all it has). A fraction: so many of `units`, in proportion to the classes by
    largest remainder, ties by lot. Each class is shuffled once per key, so a smaller draw is part of a larger one.
    """
    classes = np.unique(labels[units])
    order = [rng(seed, *key, "class", int(c)).permutation(units[labels[units] == c]) for c in classes]
    have = np.array([len(o) for o in order])
    if isinstance(budget, int):
        take = np.minimum(budget, have)
    else:
        exact = budget * have
        take = np.minimum(np.maximum(1, np.floor(exact).astype(np.int64)), have)
        lot = rng(seed, *key, "ties").permutation(len(classes))
        for c in sorted(range(len(classes)), key=lambda c: (take[c] - exact[c], lot[c])):
            if take.sum() < round(budget * len(units)) and take[c] < have[c]:
                take[c] += 1
    return np.sort(np.concatenate([o[:n] for o, n in zip(order, take, strict=True)]))


def make_plan(recipe: Recipe, corpus: Corpus, units: Units, elsewhere: Collection[str]) -> Plan:
    """The folds that the recipe names; else every group with a labelled unit is left out once, and groups without one are
    always pretrained on. elsewhere: keys that `study.folds` may name though their records are not used.

    Raises RequestError where the groups cannot be split or a fold would train without one of the classes, and what
    `folds.named` raises.
    """
    for budget in recipe.study.budgets:
        if budget <= 0 or (isinstance(budget, float) and budget > 1):
            raise RequestError(
                f"study.budgets: {budget} is neither a number of {units.name}s per class nor a fraction up to 1.0"
            )
    if len({title(b) for b in recipe.study.budgets}) < len(recipe.study.budgets) or not recipe.study.budgets:
        raise RequestError("study.budgets must hold one budget or more, each once")
    groups = [corpus.groups[r] for r in units.record]
    labelled = distinct(g for g, code in zip(groups, units.labels, strict=True) if code != UNLABELLED)
    if recipe.study.forward and recipe.study.folds is None:
        raise RequestError("study.forward needs folds in order of time; name their file by study.folds")
    if recipe.study.folds is None:
        made = folds.by_lot(corpus.groups, labelled, recipe.study.groups_per_fold, recipe.seed)
    else:
        made = folds.named(recipe.study.folds, corpus, labelled, elsewhere, units.name)
        made = folds.forward(made) if recipe.study.forward else made
    for number, fold in enumerate(made):
        what = f"fold {fold.name!r}" if fold.name else f"fold {number}"
        Labels(units.classes, units.labels).require(fold.train, groups, what, units.name)
    settings = recipe.model_dump(
        mode="json",
        exclude={
            "data": {"path"},
            "study": {"jobs", "labels", "folds", "starts"},
            "trainer": {"workers", "tensorboard", "loop"},
        },
    )
    plan = Plan(
        recipe=settings,
        data=corpus.fingerprint,
        classes=units.classes,
        keys=units.keys,
        groups=tuple(groups),
        labels=tuple(units.labels.tolist()),
        folds=made,
        budgets=recipe.study.budgets,
        seeds=tuple(recipe.seed + i for i in range(recipe.study.seeds)),
        draws=recipe.study.draws,
        seed=recipe.seed,
        starts=tuple(named(recipe)),
        metric="macro-F1" if units.at is None else "mIoU",
        unit_record=() if units.at is None else tuple(units.record.tolist()),
        unit_at=() if units.at is None else tuple(tuple(cell) for cell in units.at.tolist()),
    )
    plan.check()
    check_unseen(recipe, plan.tested)
    return plan


def as_json(plan: Plan) -> dict[str, Any]:
    return asdict(plan)


def planned_in(out: Path) -> Plan:
    """The plan that a study folder holds."""
    found: dict[str, Any] = json.loads((out / "plan.json").read_text())
    made = tuple(Fold(tuple(f["train"]), tuple(f["test"]), f.get("name", "")) for f in found.pop("folds"))
    cells = tuple(tuple(cell) for cell in found.pop("unit_at", ()))
    rest: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return Plan(folds=made, unit_at=cells, **rest)
