"""What every job of a study stands on: the corpus, the windows, and predictions of a fold's test units."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.items import Items, evaluated
from unlabeled.core.evaluation.heads import Features, Head, Scores
from unlabeled.core.evaluation.probe import probe, vote
from unlabeled.core.studies.folds import Fold
from unlabeled.core.studies.plan import Plan, title

Ids = NDArray[np.int64]


def open_corpus(recipe: Recipe, plan: Plan | None = None) -> Corpus:
    corpus = Corpus.open(domain(recipe.domain), recipe.data)
    if plan is not None and corpus.fingerprint != plan.data:
        raise RequestError(f"{recipe.data.path} changed since the study was planned; start a new one")
    return corpus


def windows(recipe: Recipe, corpus: Corpus) -> Items:
    return evaluated(corpus, recipe.data, recipe.evaluation)


def training_specs(recipe: Recipe, corpus: Corpus, fold: Fold) -> dict[str, InputSpec]:
    """The contract with constants measured on the training groups only, as pretraining measures them."""
    return corpus.only(fold.train).normalised(recipe.data.normaliser).specs


def of_units(unit: Ids, units: Ids) -> Ids:
    """Numbers of the items that belong to these units."""
    return np.flatnonzero(np.isin(unit, units))


class Scorer:
    """Predictions of one fold's test units from features per item; unit: (items,) the unit each item belongs to."""

    def __init__(self, plan: Plan, fold: int, unit: NDArray[np.integer]) -> None:
        self.plan, self.fold, self.unit = plan, fold, np.asarray(unit, np.int64)
        self.labels, self.record = np.array(plan.labels), plan.record
        self.test = plan.of(plan.folds[fold].test)
        self.test_items = of_units(self.unit, self.test)

    def frozen(self, features: Features, head: Head | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """Predictions (D, T) and choices (D,) by budget, of a head (none: logistic regression) on features (items, P)."""
        predictions, choices = {}, {}
        for budget in self.plan.budgets:
            rows = [self._probed(features, draw, head) for draw in self.plan.label_draws(self.fold, budget)]
            predictions[title(budget)] = [p for p, _ in rows]
            choices[title(budget)] = [c for _, c in rows]
        return predictions, choices

    def _probed(self, features: Features, labelled: Ids, head: Head | None) -> tuple[list[int], float | None]:
        at = of_units(self.unit, labelled)
        unit = self.unit[at]
        x, test = features[at], features[self.test_items]
        done = probe(x, self.labels[unit], self.record[unit], test, len(self.plan.classes), head)
        return self.voted(done.scores), done.choice

    def voted(self, scores: Scores) -> list[int]:
        votes = vote(scores, self.unit[self.test_items], self.test)
        return [int(c) for c in votes.argmax(1)]
