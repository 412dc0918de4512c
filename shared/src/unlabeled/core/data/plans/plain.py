"""Plans that take every item alike."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.streams import rng


@dataclass(frozen=True)
class Uniform:
    """Every item once per epoch in random order; the tail that fills no batch waits for another epoch's order."""

    items: int
    batch_size: int

    def __call__(self, seed: int, epoch: int, without: Set[int] = frozenset()) -> list[NDArray[np.int64]]:
        ids = rng(seed, "plan", epoch).permutation(self.items)
        if without:
            ids = ids[~np.isin(ids, list(without))]
        steps = len(ids) // self.batch_size
        return list(ids[: steps * self.batch_size].reshape(steps, self.batch_size))

    def steps(self, epoch: int, without: Set[int] = frozenset()) -> int:
        return (self.items - len(without)) // self.batch_size


@dataclass(frozen=True)
class InOrder:
    """Every item once, in order, the last batch as it comes: for embedding and predicting."""

    items: int
    batch_size: int

    def __call__(self, seed: int, epoch: int, without: Set[int] = frozenset()) -> list[NDArray[np.int64]]:
        ids = np.array([i for i in range(self.items) if i not in without], np.int64)
        return [ids[i : i + self.batch_size] for i in range(0, len(ids), self.batch_size)]

    def steps(self, epoch: int, without: Set[int] = frozenset()) -> int:
        return -(-(self.items - len(without)) // self.batch_size)
