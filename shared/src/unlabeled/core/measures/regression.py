"""Errors of predicted values, from sums that add up over groups."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def moments(truth: Floats, predicted: Floats, group: NDArray[np.int64], groups: int) -> Floats:
    """(G, 5) per group: number, sum of |e|, of e^2, of y, of y^2; e is the error, y the truth less its mean over all.

    truth, predicted (N,), group (N,) in 0 ... G - 1. The mean is taken off because R2 does not depend on it and a
    difference of two large sums loses its digits.
    """
    error, y = predicted - truth, truth - truth.mean()
    sums: Sequence[Floats] = (np.ones_like(y), np.abs(error), error**2, y, y**2)
    return np.stack([np.bincount(group, weights=values, minlength=groups) for values in sums], 1)


def mae(moments: NDArray[np.generic]) -> Floats:
    """Mean absolute error (...) of moments (..., 5); NaN without a value."""
    m = np.asarray(moments, np.float64)
    n = m[..., 0]
    return np.where(n > 0, m[..., 1] / np.maximum(n, 1), np.nan)


def r2(moments: NDArray[np.generic]) -> Floats:
    """Share of the variance explained, 1 - sum(e^2) / sum((y - mean)^2), (...) of moments (..., 5); NaN without variance.

    Equals scikit-learn's `r2_score` where the values differ.
    """
    m = np.asarray(moments, np.float64)
    n, squares = np.maximum(m[..., 0], 1), m[..., 2]
    spread = m[..., 4] - m[..., 3] ** 2 / n
    there = spread > 1e-12 * np.maximum(m[..., 4], np.finfo(np.float64).tiny)
    return np.where(there, 1 - squares / np.where(there, spread, 1), np.nan)
