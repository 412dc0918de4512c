"""Fine-tuning in a study: learning rates chosen on training groups, the same way for every start."""

from __future__ import annotations

from typing import Any

import numpy as np

from unlabeled.core.build import build_views
from unlabeled.core.contracts import RequestError, RunFailed
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.items import Items, cut
from unlabeled.core.downstream.alike import tuned
from unlabeled.core.evaluation.heads import Scores
from unlabeled.core.evaluation.labels import UNLABELLED
from unlabeled.core.evaluation.probe import vote
from unlabeled.core.measures.confusion import confusion, macro_f1
from unlabeled.core.nn.base import Encoder
from unlabeled.core.streams import key, rng
from unlabeled.core.studies.plan import Plan, draw, title
from unlabeled.core.studies.scoring import Ids, Scorer, of_records


class Tuner:
    """Fine-tuning on one fold: trained on the pretraining's items with its views, tested on the evaluation's windows."""

    def __init__(self, recipe: Recipe, plan: Plan, fold: int, corpus: Corpus, tested: Items, seed: int) -> None:
        self.recipe, self.plan, self.fold, self.tested, self.seed = recipe, plan, fold, tested, seed
        self.trained = cut(corpus, recipe.data.window, recipe.data.stride, recipe.data.min_valid)
        self.views = build_views(recipe.views, corpus.domain, corpus.specs) if recipe.views else None
        self.labels = np.array(plan.labels)

    def choose(self, encoder: Encoder) -> dict[str, Any]:
        """The learning rate with the best macro-F1 on held-out training groups, ties to the smaller; and all scores.

        The split and the labelled records are the same for every start. Raises RunFailed where every rate diverges.
        """
        labelled, outside = inner_split(self.plan, self.fold, self.recipe.study.groups_per_fold)
        scores: dict[float, float] = {}
        for lr in sorted(self.recipe.study.lr_grid):
            try:
                log_p, record = self._fitted(encoder, labelled, outside, lr, 0)
            except RunFailed:
                continue
            predicted = vote(log_p, record, outside).argmax(1)
            scores[lr] = float(macro_f1(confusion(self.labels[outside], predicted, len(self.plan.classes))))
        if not scores:
            raise RunFailed("fine-tuning diverged with every learning rate; set study.lr_grid lower")
        best = max(scores, key=lambda lr: (scores[lr], -lr))
        return {"lr": best, "scores": {f"{lr:g}": s for lr, s in scores.items()}}

    def predictions(self, encoder: Encoder, lr: float, scorer: Scorer) -> tuple[dict[str, Any], dict[str, Any]]:
        found, chosen = {}, {}
        for budget in self.plan.budgets:
            draws = self.plan.label_draws(self.fold, budget)[: self.recipe.study.finetune_draws]
            rows = [self._fitted(encoder, labelled, scorer.test, lr, 1 + i)[0] for i, labelled in enumerate(draws)]
            found[title(budget)] = [scorer.voted(row) for row in rows]
            chosen[title(budget)] = [lr for _ in draws]
        return found, chosen

    def _fitted(self, encoder: Encoder, labelled: Ids, test: Ids, lr: float, draw: int) -> tuple[Scores, Ids]:
        """Log-probabilities of the windows of the records `test`, and the record of each."""
        labels = np.where(np.isin(self.trained.record, labelled), self.labels[self.trained.record], UNLABELLED)
        at = of_records(self.tested.record, test)
        log_p = tuned(
            encoder,
            self.trained,
            labels,
            self.tested.take(at),
            len(self.plan.classes),
            lr=lr,
            steps=self.recipe.study.finetune_steps,
            seed=key(self.seed, "finetune", draw),
            views=self.views,
        )
        return log_p, self.tested.record[at]


def inner_split(plan: Plan, fold: int, held_out: int) -> tuple[Ids, Ids]:
    """Of the fold's training groups only: labelled records of the middle budget, and the records of `held_out` groups.

    Groups whose leaving out would take the last labelled record of a class stay in training.
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
            "records of a class; label more records"
        )
    inside = tuple(g for g in train if g not in out)
    middle = plan.by_size()[len(plan.budgets) // 2]
    return draw(labels, plan.of(inside), middle, plan.seed, "inner", fold), plan.of(tuple(out))
