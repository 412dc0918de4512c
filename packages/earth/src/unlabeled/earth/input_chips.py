"""Labelled chips for the study of inputs: windows that do not overlap, each with one clear class, and folds of their groups."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.groups import distinct
from unlabeled.core.data.items import Items, cut
from unlabeled.core.evaluation.labels import UNLABELLED, read_labels
from unlabeled.core.studies import folds
from unlabeled.earth import domain
from unlabeled.earth.labels import cells

CLEAR = 0.6  # least share of a chip's labelled cells that are of one class
LABELLED = 0.25  # least share of a chip's cells that have a label
FOLDS = 5

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Chips:
    """Labelled chips: label (N,) class numbers, group (N,), folds by group; dropped: how many have no clear label."""

    items: Items
    label: Ints
    classes: tuple[str, ...]
    folds: tuple[folds.Fold, ...]
    dropped: int

    @property
    def group(self) -> NDArray[np.str_]:
        return np.array(self.items.corpus.groups)[self.items.record]

    @property
    def size(self) -> tuple[int, ...] | None:
        return self.items.cells

    @property
    def splits(self) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
        """For each fold (N,) which chips are trained on, and which are tested."""
        return [(np.isin(self.group, fold.train), np.isin(self.group, fold.test)) for fold in self.folds]


def labelled(recipe: Recipe) -> Chips:
    """The evaluation's windows, without overlap, that have a clear label, and the folds of their groups."""
    if recipe.study.labels is None:
        raise RequestError("study.labels is missing: name a CSV with the columns key and label, or a raster of classes")
    corpus = Corpus.open(domain, recipe.data)
    items = cut(corpus, recipe.evaluation.window or recipe.data.window, None, recipe.data.min_valid)
    found = cells(recipe.study.labels, corpus)
    if found is None:
        read = read_labels(recipe.study.labels, [r.key for r in corpus.rows], [r.key for r in corpus.manifest.bad])
        classes, label = read.classes, read.codes[items.record]
    else:
        masks = (
            found.of(int(r), items.region(i)) if found.masks[int(r)] is not None else np.zeros(0, np.int64)
            for i, r in enumerate(items.record)
        )
        classes, label = found.classes, np.array([majority(m) for m in masks], np.int64)
    clear = label != UNLABELLED
    if len(np.unique(label[clear])) < 2:
        raise RequestError(
            f"{recipe.study.labels}: {int(clear.sum())} of {len(label)} chips have a clear label, of fewer than two classes; set "
            "data.window lower, or add labels"
        )
    kept = items.take(clear)
    there = distinct(np.array(corpus.groups)[kept.record].tolist())
    if recipe.study.folds is not None:
        made = folds.named(recipe.study.folds, corpus, there, (), "chip")
    else:
        made = folds.by_lot(corpus.groups, there, math.ceil(len(there) / FOLDS), recipe.seed)
    # what is in no fold, such as a gap between two sides, is neither trained nor tested on
    used = np.isin(np.array(corpus.groups)[kept.record], [g for fold in made for g in (*fold.train, *fold.test)])
    chips = Chips(kept.take(used), label[clear][used], classes, made, int((~clear).sum()))
    for number, (train, test) in enumerate(chips.splits):
        if len(np.unique(chips.label[train])) < 2 or not test.any():
            raise RequestError(f"fold {number} trains on fewer than two classes, or tests no chip; choose other folds")
    return chips


def majority(codes: NDArray[np.integer]) -> int:
    """The class of a chip whose cells have these, -1 without label: at least 60 % of those labelled, a quarter of all."""
    there = codes[codes != UNLABELLED].astype(np.int64)
    if len(there) == 0 or len(there) < LABELLED * codes.size:
        return UNLABELLED
    count = np.bincount(there)
    return int(count.argmax()) if count.max() >= CLEAR * len(there) else UNLABELLED
