"""k nearest neighbours by cosine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

ROWS = 1024  # test rows at a time, so that the similarities stay small


def knn(
    train: NDArray[np.floating],
    labels: NDArray[np.int64],
    test: NDArray[np.floating],
    classes: int,
    k: int = 10,
    temperature: float | None = None,
) -> NDArray[np.float64]:
    """Votes (M, K) of the k most similar training rows; the prediction is the argmax, ties to the first class.

    temperature None: one vote each, as scikit-learn's KNeighborsClassifier(metric="cosine"). A number T: every vote
    weighs exp(similarity / T), Wu et al. 2018 (InstDisc), section 3.4; 0.07 there and in Caron et al. 2021 (DINO).
    k above the number of training rows takes them all.
    """
    a, b = _unit(test), _unit(train)
    k = min(k, len(b))
    hit = np.eye(classes)[labels]
    votes = []
    for at in range(0, len(a), ROWS):
        similarity = a[at : at + ROWS] @ b.T
        near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        top = np.take_along_axis(similarity, near, 1)
        weight = np.ones_like(top) if temperature is None else np.exp((top - 1.0) / temperature)
        votes.append(np.einsum("mk,mkc->mc", weight, hit[near]))
    return np.concatenate(votes)


def _unit(x: NDArray[np.floating]) -> NDArray[np.float64]:
    x = np.asarray(x, np.float64)
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), np.finfo(np.float64).tiny))
