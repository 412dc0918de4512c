"""How the units of a study are read: a record through its windows, which vote, or a point through the window around it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any, Protocol, overload

import numpy as np

from unlabeled.core.build import build_views
from unlabeled.core.contracts import BadInput, RequestError, Sample
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.items import Items, covering, cut
from unlabeled.core.downstream.alike import fitted, tuned
from unlabeled.core.downstream.points import around, by_record, central, drawn, log_probabilities_at, tokens_at
from unlabeled.core.evaluation.embed import embed
from unlabeled.core.evaluation.heads import Features, Scores
from unlabeled.core.evaluation.labels import UNLABELLED
from unlabeled.core.nn.base import Encoder
from unlabeled.core.studies.plan import Plan
from unlabeled.core.studies.scoring import Ids, of_units, windows


class Reading(Protocol):
    """unit (N,): the unit that each row of features belongs to."""

    unit: Ids

    def embedded(self, encoder: Encoder) -> Features:
        """(N, P) features of a frozen encoder. Raises BadInput where something cannot be read."""
        ...

    def simple(self, extractor: type[Any], train: Collection[str]) -> Features:
        """(N, P) float32 features of a baseline, fitted without labels on the groups `train`."""
        ...

    def tuned(self, encoder: Encoder, labelled: Ids, test: Ids, *, lr: float, seed: int) -> tuple[Scores, Ids]:
        """Log-probabilities (M, K) of the units `test` after fine-tuning on the units `labelled`, and the unit of each."""
        ...


def reading(recipe: Recipe, plan: Plan, corpus: Corpus) -> Reading:
    return Points(recipe, plan, corpus) if plan.unit_at else Windows(recipe, plan, corpus)


class Windows:
    """Records: pooled features of the evaluation's windows; fine-tuned on the pretraining's, with its views."""

    def __init__(self, recipe: Recipe, plan: Plan, corpus: Corpus) -> None:
        self.recipe, self.plan, self.corpus = recipe, plan, corpus
        self.items = windows(recipe, corpus)
        self.unit = self.items.record.astype(np.int64)

    def embedded(self, encoder: Encoder) -> Features:
        found = embed(encoder, self.items, encoder.specs)
        if found.failed:
            raise BadInput(next(iter(found.failed.values())))
        return found.values

    @cached_property
    def _samples(self) -> list[Sample]:
        return [self.items.sample(i) for i in range(len(self.items))]

    def simple(self, extractor: type[Any], train: Collection[str]) -> Features:
        inside = np.isin(np.array(self.corpus.groups)[self.unit], list(train))
        model = extractor().fit([s for s, there in zip(self._samples, inside, strict=True) if there])
        return np.asarray(model.features(self._samples), np.float32)

    @cached_property
    def _trained(self) -> Items:
        return cut(self.corpus, self.recipe.data.window, self.recipe.data.stride, self.recipe.data.min_valid)

    def tuned(self, encoder: Encoder, labelled: Ids, test: Ids, *, lr: float, seed: int) -> tuple[Scores, Ids]:
        of, study = self._trained.record, self.recipe.study
        views = build_views(self.recipe.views, self.corpus.domain, self.corpus.specs) if self.recipe.views else None
        at = of_units(self.unit, test)
        log_p = tuned(
            encoder,
            self._trained,
            np.where(np.isin(of, labelled), np.array(self.plan.labels)[of], UNLABELLED),
            self.items.take(at),
            len(self.plan.classes),
            lr=lr,
            steps=study.finetune_steps,
            seed=seed,
            views=views,
            batch=study.finetune_batch,
        )
        return log_p, self.unit[at]


class Points:
    """Points: the token of each one's cell, from the covering window in whose middle it lies; fine-tuned on windows around
    the labelled points, whose other cells are ignored, without views.
    """

    def __init__(self, recipe: Recipe, plan: Plan, corpus: Corpus) -> None:
        self.recipe, self.plan, self.corpus = recipe, plan, corpus
        self.record, self.at, self.labels = plan.record, np.array(plan.unit_at), np.array(plan.labels)
        self.points = central(covered(recipe, corpus), self.record, self.at)
        self.unit = np.arange(len(self.points))

    def embedded(self, encoder: Encoder) -> Features:
        return tokens_at(encoder, self.points)

    def simple(self, extractor: type[Any], train: Collection[str]) -> Features:
        inside = np.isin(np.array(self.corpus.groups), list(train))
        model = extractor().fit(Records(self.corpus, np.flatnonzero(inside)))
        rows, found = [], []
        for mine in by_record(self.record):
            rows.append(mine)
            found.append(model.cells(self.corpus.record(int(self.record[mine[0]])), self.at[mine]))
        return np.asarray(np.concatenate(found), np.float32)[np.argsort(np.concatenate(rows))]

    def tuned(self, encoder: Encoder, labelled: Ids, test: Ids, *, lr: float, seed: int) -> tuple[Scores, Ids]:
        record, at, labels = self.record[labelled], self.at[labelled], self.labels[labelled]
        size = covering(self.corpus, self.recipe.data.window).size
        items = around(self.corpus, size, record, at)
        model = fitted(
            encoder,
            items,
            labels,
            len(self.plan.classes),
            lr=lr,
            steps=self.recipe.study.finetune_steps,
            seed=seed,
            batch=self.recipe.study.finetune_batch,
            cells=drawn(items, record, at, labels),
        )
        return log_probabilities_at(model, self.points.take(test)), test


def covered(recipe: Recipe, corpus: Corpus) -> Items:
    """The evaluation's windows over every cell of every record, by default half a window apart.

    Raises RequestError where cells would lie between windows.
    """
    window = recipe.evaluation.window or recipe.data.window
    stride = recipe.evaluation.stride or (window and tuple(size / 2 for size in window))
    if window and stride and any(step > size for step, size in zip(stride, window, strict=True)):
        raise RequestError("evaluation.stride is larger than the window, so points lie in none; set it lower")
    return covering(corpus, window, stride)


class Records(Sequence[Sample]):
    """Whole records, each read when it is asked for."""

    def __init__(self, corpus: Corpus, record: Ids) -> None:
        self.corpus, self.record = corpus, record

    def __len__(self) -> int:
        return len(self.record)

    @overload
    def __getitem__(self, i: int) -> Sample: ...
    @overload
    def __getitem__(self, i: slice) -> Records: ...
    def __getitem__(self, i: int | slice) -> Sample | Records:
        return Records(self.corpus, self.record[i]) if isinstance(i, slice) else self.corpus.record(int(self.record[i]))
