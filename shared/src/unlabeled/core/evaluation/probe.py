"""Probe: standardise, choose the regularisation within the labelled records, fit, and let windows vote.

One function for every start, embeddings and hand features alike, so that no side has a better tuned head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from unlabeled.core.evaluation.heads import Features, Head, Logistic, Scores, Targets

PARTS = 3


@dataclass(frozen=True)
class Probed:
    """scores (M, K) of the test rows; the chosen value of the head's grid, None where there was nothing to choose."""

    scores: Scores
    choice: float | None


def probe(
    x: Features,
    y: Targets,
    record: NDArray[np.int64],
    test: Features,
    classes: int,
    head: Head | None = None,
) -> Probed:
    """Fit on the labelled windows x (N, P), y (N,), cut from record (N,), and score the windows `test` (M, P).

    head: logistic regression where none is given.

    Only labelled windows are used for the mean and deviation, for the choice and for the fit.
    """
    head = Logistic() if head is None else head
    mean, scale = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
    scale = np.where(scale > 1e-6 * np.abs(mean), scale, 1.0)  # a constant column may still have rounding for spread
    x, test = (((part - mean) / scale).astype(x.dtype) for part in (x, test))
    if not head.grid:
        return Probed(next(head.path(x, y, test, classes, [0.0])), None)
    value = choose(x, y, record, classes, head)
    return Probed(next(head.path(x, y, test, classes, [value])), value)


def choose(x: Features, y: Targets, record: NDArray[np.int64], classes: int, head: Head) -> float:
    """The value of the grid with the least held-out loss over `splits`; ties go to the stronger regularisation.

    Where no split is possible (one window per class) it is the middle of the grid.
    """
    if len(head.grid) == 1:
        return head.grid[0]
    losses = np.zeros(len(head.grid))
    used = 0
    for inside, outside in splits(y, record):
        outside = outside[np.isin(y[outside], y[inside])]
        if len(np.unique(y[inside])) < 2 or len(outside) == 0:
            continue
        used += 1
        paths = head.path(x[inside], y[inside], x[outside], classes, head.grid)
        losses += [head.loss(scores, y[outside]) for scores in paths]
    return head.grid[int(losses.argmin())] if used else head.grid[len(head.grid) // 2]


def splits(y: Targets, record: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(inside, outside) row numbers.

    Whole records are held out, up to three folds stratified by class, where every class has two labelled records or
    more; otherwise every record's windows are cut into three contiguous stretches, and one stretch of each is held out.
    A record may hold rows of several classes, where they are its points.
    """
    records, first, of = np.unique(record, return_index=True, return_inverse=True)
    label = y[first]
    pairs = np.unique(np.stack([y, of]), axis=1)  # every class of every record, once
    fewest = int(np.unique(pairs[0], return_counts=True)[1].min())
    if fewest >= 2 and pairs.shape[1] > len(records):
        return list(StratifiedGroupKFold(min(PARTS, fewest), shuffle=True, random_state=0).split(y, y, record))
    if fewest >= 2:
        folds = StratifiedKFold(min(PARTS, fewest), shuffle=True, random_state=0).split(records, label)
        return [(np.flatnonzero(np.isin(of, a)), np.flatnonzero(np.isin(of, b))) for a, b in folds]
    part = np.empty(len(y), np.int64)
    for r in range(len(records)):
        rows = np.flatnonzero(of == r)
        part[rows] = np.arange(len(rows)) * PARTS // len(rows)
    return [(np.flatnonzero(part != p), np.flatnonzero(part == p)) for p in range(PARTS)]


def vote(scores: Scores, record: NDArray[np.int64], records: NDArray[np.int64]) -> Scores:
    """(T, K): mean score over the windows of each of `records` (T,); each has a window."""
    at = {int(r): i for i, r in enumerate(records)}
    rows = np.array([at[int(r)] for r in record])
    total = np.zeros((len(records), scores.shape[1]))
    np.add.at(total, rows, scores)
    return np.asarray(total / np.bincount(rows, minlength=len(records))[:, None])
