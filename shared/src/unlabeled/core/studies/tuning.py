"""Fine-tuning in a study: learning rates chosen on training groups, the same way for every start."""

from __future__ import annotations

from typing import Any

import numpy as np

from unlabeled.core.contracts import RequestError, RunFailed
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.evaluation.heads import Scores
from unlabeled.core.evaluation.probe import vote
from unlabeled.core.measures.confusion import confusion, counts
from unlabeled.core.nn.base import Encoder
from unlabeled.core.streams import key, rng
from unlabeled.core.studies.plan import Plan, draw, title
from unlabeled.core.studies.readings import Reading
from unlabeled.core.studies.scoring import Ids, Scorer


class Tuner:
    """Fine-tuning on one fold with one pretraining seed."""

    def __init__(self, recipe: Recipe, plan: Plan, fold: int, reading: Reading, seed: int) -> None:
        self.recipe, self.plan, self.fold, self.reading, self.seed = recipe, plan, fold, reading, seed
        self.labels = np.array(plan.labels)

    def choose(self, encoder: Encoder) -> dict[str, Any]:
        """The learning rate with the best score on held-out training groups, ties to the smaller; and all scores.

        A grid of one rate leaves nothing to choose, and has no scores.

        The split and the labelled units are the same for every start. Raises RunFailed where every rate diverges.
        """
        if len(self.recipe.study.lr_grid) == 1:
            return {"lr": self.recipe.study.lr_grid[0], "scores": {}}
        labelled, outside = inner_split(self.plan, self.fold, self.recipe.study.groups_per_fold)
        scores: dict[float, float] = {}
        for lr in sorted(self.recipe.study.lr_grid):
            try:
                log_p, unit = self._tuned(encoder, labelled, outside, lr, 0)
            except RunFailed:
                continue
            predicted = vote(log_p, unit, outside).argmax(1)
            found = counts(confusion(self.labels[outside], predicted, len(self.plan.classes)))
            scores[lr] = float(self.plan.statistic(found))
        if not scores:
            raise RunFailed("fine-tuning diverged with every learning rate; set study.lr_grid lower")
        best = max(scores, key=lambda lr: (scores[lr], -lr))
        return {"lr": best, "scores": {f"{lr:g}": s for lr, s in scores.items()}}

    def predictions(self, encoder: Encoder, lr: float, scorer: Scorer) -> tuple[dict[str, Any], dict[str, Any]]:
        found, chosen = {}, {}
        for budget in self.plan.budgets:
            draws = self.plan.label_draws(self.fold, budget)[: self.recipe.study.finetune_draws]
            rows = [self._tuned(encoder, labelled, scorer.test, lr, 1 + i)[0] for i, labelled in enumerate(draws)]
            found[title(budget)] = [scorer.voted(row) for row in rows]
            chosen[title(budget)] = [lr for _ in draws]
        return found, chosen

    def _tuned(self, encoder: Encoder, labelled: Ids, test: Ids, lr: float, draw: int) -> tuple[Scores, Ids]:
        """Log-probabilities of what the units `test` are read by, and the unit of each."""
        return self.reading.tuned(encoder, labelled, test, lr=lr, seed=key(self.seed, "finetune", draw))


def inner_split(plan: Plan, fold: int, held_out: int) -> tuple[Ids, Ids]:
    """Of the fold's training groups only: labelled units of the middle budget, and the units of `held_out` groups.

    Groups whose leaving out would take the last labelled unit of a class stay in training.
    """
    train = plan.folds[fold].train
    order = [train[i] for i in rng(plan.seed, "inner", fold).permutation(len(train))]
    labels = np.array(plan.labels)
    classes = set(labels[plan.of(train)].tolist())
    out: list[str] = []
    for group in order:
        rest = tuple(g for g in train if g not in (*out, group))
        if len(out) < held_out and len(plan.of((group,))) and set(labels[plan.of(rest)].tolist()) == classes:
            out.append(group)
    if not out:
        raise RequestError(
            f"fold {fold}: no training group can be held out to choose a learning rate, since each holds the only "
            f"{plan.unit}s of a class; label more {plan.unit}s"
        )
    inside = tuple(g for g in train if g not in out)
    middle = plan.by_size()[len(plan.budgets) // 2]
    return draw(labels, plan.of(inside), middle, plan.seed, "inner", fold), plan.of(tuple(out))
