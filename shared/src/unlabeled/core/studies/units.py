"""Units: what a study labels, draws and scores. Records, or points, which are cells of records."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Recipe, nearest
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.items import Items
from unlabeled.core.downstream.kinds.segment import Segment
from unlabeled.core.downstream.tasks import heads, make_task
from unlabeled.core.evaluation.labels import UNLABELLED, read_labels

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Units:
    """keys, record (U,) of the corpus, labels (U,) class codes, -1 without label or window.

    at: (U, d) cell of each point in its record's grid; None: the units are the records.
    """

    classes: tuple[str, ...]
    keys: tuple[str, ...]
    record: NDArray[np.int64]
    labels: NDArray[np.int64]
    at: NDArray[np.int64] | None = None

    @property
    def name(self) -> str:
        return "record" if self.at is None else "point"


def of_points(recipe: Recipe) -> bool:
    """Whether the study is one of segmentation. Raises RequestError for a task that is not there or gives no classes."""
    known = heads(domain(recipe.domain))
    if recipe.study.task not in known:
        raise RequestError(f"study.task: {nearest(recipe.study.task, list(known))}")
    kinds = ("classification", "segmentation")
    if known[recipe.study.task].kind not in kinds:
        usable = ", ".join(name for name, head in known.items() if head.kind in kinds)
        raise RequestError(f"study.task: a study compares one class for each record or cell; choose one of {usable}")
    return known[recipe.study.task].kind == "segmentation"


def records(recipe: Recipe, corpus: Corpus, items: Sequence[Items], elsewhere: Collection[str]) -> Units:
    """Every record with its class; one that gives no window for one of the `items` counts as unlabelled."""
    assert recipe.study.labels is not None
    keys = tuple(r.key for r in corpus.rows)
    labels = read_labels(recipe.study.labels, keys, elsewhere)
    everything = np.arange(len(corpus))
    usable = np.all([np.isin(everything, i.record) for i in items], axis=0)
    return Units(labels.classes, keys, everything, np.where(usable, labels.codes, UNLABELLED))


def points(recipe: Recipe, everything: Corpus, corpus: Corpus) -> Units:
    """Every `study.every`-th cell along each axis that has a label and data, record by record, the last axis fastest.

    everything: the corpus that the labels are of; corpus: the records to use. A class that none of these cells has is left
    out, and the log says so. Raises RequestError where the labels cannot be used or fewer than two classes are left.
    """
    assert recipe.study.labels is not None
    every = recipe.study.every
    task = make_task(everything.domain, recipe.study.task, recipe.study.labels, everything)
    assert isinstance(task, Segment)
    place = {row.key: i for i, row in enumerate(everything.rows)}
    record: list[NDArray[np.int64]] = []
    at: list[NDArray[np.int64]] = []
    found: list[NDArray[np.int64]] = []
    for i, row in enumerate(corpus.rows):
        if not task.present(place[row.key]):
            continue
        shape = corpus.shape(i)
        grid = tuple(slice(every // 2, None, every) for _ in shape)
        codes = task.cells.of(place[row.key], grid)
        there = codes != UNLABELLED
        if not corpus.whole(i) and (valid := next(iter(corpus.record(i).inputs.values())).valid) is not None:
            there &= np.asarray(valid.any(0))[grid]
        cells = np.argwhere(there)
        record.append(np.full(len(cells), i))
        at.append(cells * every + every // 2)
        found.append(codes[there])
    codes = np.concatenate([np.zeros(0, np.int64), *found])
    used = np.unique(codes)
    classes = tuple(task.classes[c] for c in used)
    if len(classes) < 2:
        raise RequestError(
            f"{recipe.study.labels}: the {len(codes)} labelled points have {len(classes)} class(es), and two are needed; set "
            "study.every lower, or add labels"
        )
    if unused := [name for name in task.classes if name not in classes]:
        log.warning("left out, since no point of study.every = %d has it: %s", every, ", ".join(unused))
    of, cells = np.concatenate(record), np.concatenate(at)
    keys = tuple(
        f"{corpus.rows[r].key}@{','.join(map(str, c))}" for r, c in zip(of.tolist(), cells.tolist(), strict=True)
    )
    return Units(classes, keys, of, np.searchsorted(used, codes), cells)
