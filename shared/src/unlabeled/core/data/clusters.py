"""Clusters of embeddings, clusters of those clusters, and how many to take of each so that all are there alike.

Pure NumPy and scikit-learn: the curation step `balance` and the plans share it.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from unlabeled.core.streams import key, rng

Values = NDArray[np.floating[Any]]
Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """A tree of clusters, of which none is empty.

    parents    level by level, the finest first: (N,) int64 cluster of each row, (K0,) that of each of these clusters, ...
    centroids  level by level, (K, D)
    """

    parents: tuple[Counts, ...]
    centroids: tuple[Values, ...]

    @property
    def labels(self) -> Counts:
        """(N,) the finest cluster of each row."""
        return self.parents[0]

    def at(self, level: int) -> Counts:
        """(N,) the cluster of each row at a level, 0 the finest."""
        found = self.parents[0]
        for parent in self.parents[1 : level + 1]:
            found = parent[found]
        return found

    def sizes(self, level: int = 0) -> Counts:
        """(K,) rows in each cluster of a level."""
        return np.bincount(self.at(level))


def hierarchical(values: Values, levels: Sequence[int], seed: int, iterations: int = 50) -> Clusters:
    """k-means of the rows, scaled to length 1, then k-means of the centroids, level upon level (Vo et al. 2024).

    values (N, D), in any float type; computed in float32, or float64 where given. levels: most clusters of each level, the
    finest first. The same values, levels and seed give the same bits, with any number of threads: each k-means runs on one.
    Memory beyond the values: one copy of them, and for the start by k-means++ N (3 + log K) numbers.
    Left out of the paper: its resampling of what lies nearest to the centroids, between two runs of k-means.
    """
    x = scaled(values)
    parents, centroids = [], []
    for level, count in enumerate(levels):
        labels, x = _kmeans(x, count, key(seed, "clusters", level) % 2**32, iterations)
        parents.append(labels)
        centroids.append(x)
    return Clusters(tuple(parents), tuple(centroids))


def scaled(values: Values) -> Values:
    """Rows of length 1, float32 at least, a copy; rows of zeros stay so. Raises ValueError for what is not finite."""
    x = np.array(values, np.promote_types(values.dtype, np.float32))
    length = np.sqrt(np.einsum("nd,nd->n", x, x))[:, None]
    if not np.isfinite(length).all():
        raise ValueError("some rows are not finite, and so have no distance to others")
    np.divide(x, length, out=x, where=length > 0)
    return x


def _kmeans(x: Values, count: int, state: int, iterations: int) -> tuple[Counts, Values]:
    """Labels (N,) and centroids (K, D), K at most `count`. An empty cluster starts anew from the row that lies worst."""
    made = KMeans(min(count, len(x)), n_init=1, max_iter=iterations, random_state=state)
    # sums over threads round by their number, and one rounding can move an item
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer rows differ than clusters are asked for
        made.fit(x)
    used, labels = np.unique(made.labels_, return_inverse=True)
    return labels.astype(np.int64), made.cluster_centers_[used]


def balanced_shares(sizes: ArrayLike, target: int) -> Counts:
    """(K,) how many to take of clusters of these sizes: `target` in all, and as flat as can be (Vo et al. 2024, hierarchical sampling).

    Each gives the same number, or all that it has; what then is left over goes to the larger ones, one each. So a cluster
    of n among K gives at least min(n, target // K). All of everything where the target is not below the sum.
    """
    have = np.asarray(sizes, np.int64)
    if target < 0:
        raise ValueError(f"{target} items cannot be taken")
    if target >= have.sum():
        return have.copy()
    low, high = 0, int(have.max())  # the level lies in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        if np.minimum(have, middle).sum() <= target:
            low = middle
        else:
            high = middle
    share = np.minimum(have, low)
    share[np.argsort(-have, kind="stable")[: target - share.sum()]] += 1
    return share


def shares(clusters: Clusters, target: int) -> Counts:
    """(K0,) how many to take of each finest cluster: balanced at the coarsest level, then inside each of its clusters."""
    want = balanced_shares(clusters.sizes(len(clusters.parents) - 1), target)
    for level in range(len(clusters.parents) - 1, 0, -1):
        sizes, parent = clusters.sizes(level - 1), clusters.parents[level]
        lower = np.zeros_like(sizes)
        for at, count in enumerate(want):
            lower[parent == at] = balanced_shares(sizes[parent == at], int(count))
        want = lower
    return want


def chosen(values: Values, clusters: Clusters, counts: ArrayLike, nearness: float, seed: int) -> Counts:
    """Sorted rows: of each finest cluster so many of `counts` (K0,), at most all.

    nearness is the share of them that lie nearest to the centroid; the others are picked one by one, each as far as can be
    from all before it (k-centre; Sener and Savarese 2018), the very first by lot. It stands for the parameter eta of
    Kerdreux et al. 2025, whose paper gives no formula. Where the clusters are the same, 1 chooses the same items in any
    order of the rows, up to ties; below 1 that holds only for a cluster in which some are taken for their nearness.
    """
    x, order = scaled(values), np.argsort(clusters.labels, kind="stable")
    found = [np.zeros(0, np.int64)]
    for cluster, rows in enumerate(np.split(order, np.cumsum(clusters.sizes())[:-1])):
        count = min(int(np.asarray(counts)[cluster]), len(rows))
        if count == len(rows):
            found.append(rows)
        elif count:
            near = round(nearness * count)
            first = rng(seed, "chosen", cluster)
            found.append(rows[_picked(x[rows], clusters.centroids[0][cluster], count, near, first)])
    return np.sort(np.concatenate(found))


def _picked(x: Values, centroid: Values, count: int, near: int, lot: np.random.Generator) -> Counts:
    taken = np.argsort(np.square(x - centroid).sum(1), kind="stable")[:near].tolist()
    if near == count:
        return np.array(taken, np.int64)
    if not taken:
        taken = [int(lot.integers(len(x)))]
    away = np.min([np.square(x - x[i]).sum(1) for i in taken], 0)
    away[taken] = -1  # copies of what is taken lie at 0, and are left for the end
    while len(taken) < count:
        taken.append(int(away.argmax()))
        away = np.minimum(away, np.square(x - x[taken[-1]]).sum(1))
        away[taken[-1]] = -1
    return np.array(taken, np.int64)
