"""Confusion counts, macro-F1 and mean intersection over union over a fixed list of classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def confusion(truth: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts (..., K, K), rows truth, columns prediction, of truth (N,) and predicted (..., N), both in 0 ... K - 1."""
    hit = np.eye(classes, dtype=np.int64)
    return np.asarray(np.einsum("nk,...nl->...kl", hit[truth], hit[predicted]))


def counts(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """(..., 3, K): per class how often it was right, true and predicted. Linear in the confusion, unlike F1."""
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    return np.stack([right, confusion.sum(-1), confusion.sum(-2)], -2)


def macro_f1(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Mean over classes of F1 = 2 TP / (true + predicted); (..., K, K) to (...).

    The class list is fixed, but a class that is never true (as happens in a resample of groups) has no recall and is
    left out of the mean; NaN where no class is true. Equals scikit-learn's `f1_score(average="macro")` with `labels` set
    to the classes that are there.
    """
    return f1_of(counts(confusion))


def f1_of(counts: NDArray[np.generic]) -> NDArray[np.float64]:
    """Macro-F1 (...) of counts (..., 3, K)."""
    c = np.asarray(counts, np.float64)
    right, true, predicted = c[..., 0, :], c[..., 1, :], c[..., 2, :]
    there = true > 0
    f1 = np.where(there, 2 * right / np.maximum(true + predicted, 1), 0.0)
    n = there.sum(-1)
    return np.asarray(np.where(n > 0, f1.sum(-1) / np.maximum(n, 1), np.nan))


def iou_of(counts: NDArray[np.generic]) -> NDArray[np.float64]:
    """Mean over the classes that are there of TP / (true + predicted - TP), (...) of counts (..., 3, K); NaN where none is.

    Equals scikit-learn's `jaccard_score(average="macro")` with `labels` set to the classes that are there.
    """
    c = np.asarray(counts, np.float64)
    right, true, predicted = c[..., 0, :], c[..., 1, :], c[..., 2, :]
    there = true > 0
    iou = np.where(there, right / np.maximum(true + predicted - right, 1), 0.0)
    n = there.sum(-1)
    return np.asarray(np.where(n > 0, iou.sum(-1) / np.maximum(n, 1), np.nan))
