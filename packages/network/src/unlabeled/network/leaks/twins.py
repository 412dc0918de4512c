"""Near twins: flows whose sequences of tokens are almost alike, by a 64-bit hash that keeps likeness.

Charikar 2002, Similarity Estimation Techniques from Rounding Algorithms; Manku, Jain and Das Sarma 2007, Detecting
Near-Duplicates for Web Crawling, whose 64 bits and distance of 3 these are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import Sample
from unlabeled.core.curate.groups import near

DISTANCE = 3  # bits
SHINGLE = 3  # tokens in a row that are hashed together

Hashes = NDArray[np.uint64]


def simhashes(samples: Iterable[Sample]) -> Hashes:
    """(N,) of the valid tokens of `x` (L, 3). Each bit is the majority of that bit over the hashes of all shingles."""
    found = []
    for sample in samples:
        x = sample.inputs["x"]
        data = x.data if x.valid is None else x.data[x.valid]
        words = data.astype(np.uint64) @ np.array([1 << 16, 1 << 8, 1], np.uint64) + np.uint64(1)  # 0 is no token
        padded = np.concatenate([words, np.zeros(SHINGLE - 1, np.uint64)])  # so that short flows have a shingle too
        mixed = np.zeros(len(words), np.uint64)
        for i in range(SHINGLE):
            mixed = _mixed(mixed ^ padded[i : len(words) + i])
        bits = np.unpackbits(mixed.view(np.uint8).reshape(-1, 8), axis=1)
        found.append(np.packbits(2 * bits.sum(0, dtype=np.int64) > len(bits)))
    return np.stack([np.zeros(8, np.uint8), *found])[1:].copy().view(np.uint64)[:, 0]


def _mixed(x: Hashes) -> Hashes:
    """The finaliser of splitmix64, on each."""
    x = (x + np.uint64(0x9E3779B97F4A7C15)) & np.uint64(0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def elsewhere(hashes: Hashes, group: Sequence[int] | NDArray[np.int64], distance: int = DISTANCE) -> NDArray[np.bool_]:
    """(N,) whether a hash of another group lies within `distance` bits; group (N,)."""
    own = np.asarray(group, np.int64)
    values, at = np.unique(hashes, return_inverse=True)
    at = at.reshape(-1)
    # of each value the least and the greatest group among it and its neighbours: where both are one's own there is no other
    least = np.full(len(values), np.iinfo(np.int64).max)
    most = np.full(len(values), -1, np.int64)
    np.minimum.at(least, at, own)
    np.maximum.at(most, at, own)
    low, high = least.copy(), most.copy()
    for pairs in near(values, values, distance):
        for a, b in ((pairs.left, pairs.right), (pairs.right, pairs.left)):
            np.minimum.at(low, a, least[b])
            np.maximum.at(high, a, most[b])
    return np.asarray((low[at] != own) | (high[at] != own))
