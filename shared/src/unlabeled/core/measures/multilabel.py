"""Average precision and F1 of several labels per record, from histograms that add up over groups.

Average precision is no sum over records, but it is a function of how many records of either truth lie above each positive
one. So the bins of a histogram end at the scores of positives, and the counts in them, summed over any resample of
groups, give it exactly. Shapes: N records, K classes, G groups, B bins.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.measures.confusion import f1_of

Floats = NDArray[np.float64]

BINS = 1000
THRESHOLD = 0.5  # a label is predicted above it


def histograms(truth: NDArray[np.bool_], score: Floats, group: NDArray[np.int64], groups: int) -> NDArray[np.int64]:
    """(G, 2, K + 1, 2, B) how many are: positive or negative; of each class, and of all together; above `THRESHOLD` or
    not; in each bin, the likeliest first.

    truth, score (N, K), group (N,) in 0 ... G - 1. Up to `BINS` positives of different scores on a side of the threshold
    have a bin of their own, and average precision is exact. More share `BINS` bins, by quantiles, and count as ties within
    one: then it is off by at most the sum over bins of the share of positives there, below 2 / BINS, times the variation
    of the precision there, altogether below 2 ln P + 3 for P positives (it rises by 1 / t at most at the t-th). That is
    the worst order; where the precision falls evenly from 1 to 0 it is off by 1 / (2 BINS).
    """
    classes = truth.shape[1]
    rows = [(truth[:, k], score[:, k], group) for k in range(classes)]
    rows.append((truth.ravel(), score.ravel(), np.repeat(group, classes)))
    bins = [[_bins(s, t, side) for side in (s > THRESHOLD, s <= THRESHOLD)] for t, s, _ in rows]
    width = 1 + max(int(b.max(initial=0)) for sides in bins for _, b in sides)
    out = np.zeros((groups, 2, classes + 1, 2, width), np.int64)
    for k, (t, _, g) in enumerate(rows):
        for side, (at, b) in enumerate(bins[k]):
            np.add.at(out[:, :, k, side], (g[at], np.where(t[at], 0, 1), b), 1)
    return out


def _bins(
    score: Floats, positive: NDArray[np.bool_], side: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which are on this side of the threshold, and their bins.

    A bin begins below the one before and ends at a positive's score; the last holds what is less likely than any positive.
    """
    at = np.flatnonzero(side)
    ends = np.unique(score[at][positive[at]])
    if len(ends) > BINS:
        ends = np.unique(np.quantile(score[at][positive[at]], np.arange(BINS) / BINS, method="lower"))
    return at, len(ends) - np.searchsorted(ends, score[at], side="right")


def macro_ap(histograms: NDArray[np.generic]) -> Floats:
    """Mean over classes of the average precision, (...) of histograms (..., 2, K + 1, 2, B).

    A class without a positive has no recall and is left out; NaN where no class has one. Equals scikit-learn's
    `average_precision_score(average="macro")` on the classes that have (and not torchmetrics', which counts 0 for others).
    """
    ap = _average_precision(np.asarray(histograms)[..., :-1, :, :])
    there = ~np.isnan(ap)
    n = there.sum(-1)
    return np.where(n > 0, np.where(there, ap, 0).sum(-1) / np.maximum(n, 1), np.nan)


def micro_ap(histograms: NDArray[np.generic]) -> Floats:
    """Average precision (...) of all labels of all records in one ranking; NaN without a positive."""
    return _average_precision(np.asarray(histograms)[..., -1:, :, :])[..., 0]


def _average_precision(histograms: NDArray[np.generic]) -> Floats:
    """Sum over bins of the rise of recall times the precision, (..., K) of (..., 2, K, 2, B); NaN without a positive."""
    h = np.asarray(histograms, np.float64)
    h = h.reshape(*h.shape[:-2], -1)
    positive, every = h[..., 0, :, :], h.sum(-3)
    right = positive.cumsum(-1)
    total = right[..., -1]
    area = (positive * right / np.maximum(every.cumsum(-1), 1)).sum(-1)
    return np.where(total > 0, area / np.maximum(total, 1), np.nan)


def macro_f1(histograms: NDArray[np.generic]) -> Floats:
    """Mean over the classes that are there of F1 above the threshold, (...) of histograms (..., 2, K + 1, 2, B)."""
    return f1_of(_counts(np.asarray(histograms)[..., :-1, :, :]))


def micro_f1(histograms: NDArray[np.generic]) -> Floats:
    """F1 of all labels of all records together; NaN without a positive."""
    return f1_of(_counts(np.asarray(histograms)[..., -1:, :, :]))


def _counts(histograms: NDArray[np.generic]) -> NDArray[np.generic]:
    """(..., 3, K) as `f1_of` takes them: how often right, true and predicted."""
    sides = histograms.sum(-1)  # (..., 2, K, 2)
    return np.stack([sides[..., 0, :, 0], sides[..., 0, :, :].sum(-1), sides[..., 0].sum(-2)], -2)
