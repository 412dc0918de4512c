"""What a study does, fixed before anything is computed: folds, budgets, label draws, seeds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.groups import check_disjoint, distinct, folds
from unlabeled.core.data.items import Items
from unlabeled.core.evaluation.labels import UNLABELLED, Labels
from unlabeled.core.streams import rng
from unlabeled.core.studies.starts import check_unseen, named

Budget = int | float


@dataclass(frozen=True)
class Fold:
    """Keyed hashes of the groups to train on and of those left out."""

    train: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """keys, groups and labels (class codes, -1 without label or window) per record; seeds of pretraining.

    data: a hash. starts: names of the off-the-shelf weights.
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

    def check(self) -> None:
        """Raises Leakage where a fold has a group on both sides."""
        for number, fold in enumerate(self.folds):
            check_disjoint(fold.train, fold.test, f"fold {number}")

    @property
    def tested(self) -> list[str]:
        """Groups with a labelled record, in order."""
        return distinct(self.groups[i] for i in self.of(self.groups))

    def of(self, groups: tuple[str, ...]) -> NDArray[np.int64]:
        """The labelled records of these groups."""
        there = np.isin(np.array(self.groups), groups) & (np.array(self.labels) != UNLABELLED)
        return np.flatnonzero(there)

    def label_draws(self, fold: int, budget: Budget) -> list[NDArray[np.int64]]:
        """The labelled records of each draw: the same for every start and every pretraining seed."""
        n = 1 if everything(budget) else self.draws
        records = self.of(self.folds[fold].train)
        return [draw(np.array(self.labels), records, budget, self.seed, "fold", fold, i) for i in range(n)]

    def by_size(self) -> list[Budget]:
        """Budgets from the fewest labelled records to the most."""
        return sorted(self.budgets, key=lambda b: sum(len(self.label_draws(f, b)[0]) for f in range(len(self.folds))))


def everything(budget: Budget) -> bool:
    return isinstance(budget, float) and budget >= 1


def title(budget: Budget) -> str:
    """`1 per class`, `10 %`, `all`."""
    if isinstance(budget, int):
        return f"{budget} per class"
    return "all" if everything(budget) else f"{100 * budget:g} %"


def draw(
    labels: NDArray[np.int64], records: NDArray[np.int64], budget: Budget, seed: int, *key: int | str
) -> NDArray[np.int64]:
    """Labelled records, stratified by class, at least one of each class, as a pure function of the key.

    An integer: so many of each class (or all it has). A fraction: so many of `records`, in proportion to the classes by
    largest remainder, ties by lot. Each class is shuffled once per key, so a smaller draw is part of a larger one.
    """
    classes = np.unique(labels[records])
    order = [rng(seed, *key, "class", int(c)).permutation(records[labels[records] == c]) for c in classes]
    have = np.array([len(o) for o in order])
    if isinstance(budget, int):
        take = np.minimum(budget, have)
    else:
        exact = budget * have
        take = np.minimum(np.maximum(1, np.floor(exact).astype(np.int64)), have)
        lot = rng(seed, *key, "ties").permutation(len(classes))
        for c in sorted(range(len(classes)), key=lambda c: (take[c] - exact[c], lot[c])):
            if take.sum() < round(budget * len(records)) and take[c] < have[c]:
                take[c] += 1
    return np.sort(np.concatenate([o[:n] for o, n in zip(order, take, strict=True)]))


def make_plan(recipe: Recipe, corpus: Corpus, items: Sequence[Items], labels: Labels) -> Plan:
    """Every group with a labelled record is left out once; groups without one are always pretrained on.

    Raises RequestError where the groups cannot be split or a fold would train without one of the classes.
    """
    usable = np.all([np.isin(np.arange(len(corpus)), i.record) for i in items], axis=0)
    labels = Labels(labels.classes, np.where(usable, labels.codes, UNLABELLED))
    for budget in recipe.study.budgets:
        if budget <= 0 or (isinstance(budget, float) and budget > 1):
            raise RequestError(
                f"study.budgets: {budget} is neither a number of records per class nor a fraction up to 1.0"
            )
    if len({title(b) for b in recipe.study.budgets}) < len(recipe.study.budgets) or not recipe.study.budgets:
        raise RequestError("study.budgets must hold one budget or more, each once")
    made = []
    labelled = [g for g, code in zip(corpus.groups, labels.codes, strict=True) if code != UNLABELLED]
    for number, test in enumerate(folds(labelled, recipe.study.groups_per_fold, recipe.seed)):
        train = tuple(g for g in distinct(corpus.groups) if g not in test)
        labels.require(train, corpus.groups, f"fold {number}")
        made.append(Fold(train, test))
    settings = recipe.model_dump(
        mode="json",
        exclude={
            "data": {"path"},
            "study": {"jobs", "labels", "starts"},
            "trainer": {"workers", "tensorboard", "loop"},
        },
    )
    plan = Plan(
        recipe=settings,
        data=corpus.fingerprint,
        classes=labels.classes,
        keys=tuple(r.key for r in corpus.rows),
        groups=tuple(corpus.groups),
        labels=tuple(labels.codes.tolist()),
        folds=tuple(made),
        budgets=recipe.study.budgets,
        seeds=tuple(recipe.seed + i for i in range(recipe.study.seeds)),
        draws=recipe.study.draws,
        seed=recipe.seed,
        starts=tuple(named(recipe)),
    )
    plan.check()
    check_unseen(recipe, plan.tested)
    return plan


def as_json(plan: Plan) -> dict[str, Any]:
    return asdict(plan)


def planned_in(out: Path) -> Plan:
    """The plan that a study folder holds."""
    found: dict[str, Any] = json.loads((out / "plan.json").read_text())
    folds = tuple(Fold(tuple(f["train"]), tuple(f["test"])) for f in found.pop("folds"))
    rest: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
    return Plan(folds=folds, **rest)
