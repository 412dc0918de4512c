"""LogME: how well a linear model of frozen features explains labels, by its evidence. No training, no grid, no split."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

STEPS = 65  # along the logarithm of alpha / beta; then again between the neighbours of the best, so often:
ROUNDS = 5
FAR = 27.0  # e^27 = 5e11: how far alpha / beta may lie from the largest squared singular value, either way
REST = 1e-12  # of the targets' sum of squares: what cannot be told from a perfect fit


def logme(features: NDArray[np.floating], targets: NDArray[np.generic]) -> float:
    """Maximum over alpha and beta of log p(y | F, alpha, beta) / N, mean over targets; more is better.

    The model is y = F w + noise, w ~ N(0, 1 / alpha), noise ~ N(0, 1 / beta), without an intercept (You et al. 2021, LogME,
    eqs. 2 and 3). features (N, D). targets: whole numbers (N,), each class against the rest; or reals (N,) or (N, C), a
    regression each. A target that is 0 everywhere is left out; NaN where all are.

    That is y ~ N(0, (I + F F' / t) / beta) with t = alpha / beta. In the coordinates of the left singular vectors, with
    x_i = u_i . y, r = |y|^2 - |x|^2 and squared singular values s_i, the best noise of a t is
    1 / beta = (sum_i x_i^2 / (1 + s_i / t) + r) / N, and log p / N = -(log(2 pi / beta) + 1 + sum_i log(1 + s_i / t) / N) / 2.
    What is left is a maximum along one axis, which is looked for on a grid, finer and finer. The paper iterates alpha and
    beta instead, which comes to the same where it converges; the search also ends where features explain nothing, and the
    best alpha is infinite.

    Invariant to rotations of the features, and to their scale: two bugs of the official code's fixed point are not copied. It counts D
    eigenvalues of the prior but only min(N, D) of the posterior, so that for D > N the score depends on the scale of the
    features; and it adds 1e-5 to squares whatever their unit.
    """
    f = np.asarray(features, np.float64)
    y = _columns(targets)
    y = y[:, y.any(0)]
    if y.shape[1] == 0:
        return float("nan")
    u, s, _ = np.linalg.svd(f, full_matrices=False)
    return float(np.mean(_evidence(s**2, (u.T @ y) ** 2, (y**2).sum(0), len(f))))


def _columns(targets: NDArray[np.generic]) -> NDArray[np.float64]:
    if np.issubdtype(targets.dtype, np.integer):
        return np.asarray(np.unique(targets)[None] == targets[:, None], np.float64)
    return np.asarray(targets, np.float64).reshape(len(targets), -1)


def _evidence(s: NDArray[np.float64], x2: NDArray[np.float64], y2: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    """(C,) of squared singular values s (k,), squared coordinates x2 (k, C) and squared lengths y2 (C,)."""
    there = s > s.max(initial=0.0) * 1e-24  # a direction the features do not have
    s, x2 = s[there], x2[there]
    rest = np.maximum(y2 - x2.sum(0), REST * y2)
    if not len(s):
        return np.asarray(-0.5 * (np.log(2 * np.pi * y2 / n) + 1))
    at = np.log(s.max())
    low, high = np.full(len(y2), at - FAR), np.full(len(y2), at + FAR)
    for _ in range(ROUNDS):
        grid = low + (high - low) * np.linspace(0, 1, STEPS)[:, None]  # (T, C)
        values = _along(np.exp(grid), s, x2, rest, n)
        best = values.argmax(0)
        step = (high - low) / (STEPS - 1)
        middle = np.take_along_axis(grid, best[None], 0)[0]
        low, high = np.maximum(middle - step, at - FAR), np.minimum(middle + step, at + FAR)
    return np.asarray(values.max(0))


def _along(
    t: NDArray[np.float64], s: NDArray[np.float64], x2: NDArray[np.float64], rest: NDArray[np.float64], n: int
) -> NDArray[np.float64]:
    """(T, C) log evidence / N at alpha / beta = t (T, C), under the best beta."""
    out = np.empty_like(t)
    for i, ratio in enumerate(t):
        noise = (x2 / (1 + s[:, None] / ratio)).sum(0) + rest
        out[i] = -0.5 * (np.log(2 * np.pi * noise / n) + 1 + np.log1p(s[:, None] / ratio).sum(0) / n)
    return out
