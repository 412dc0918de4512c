"""Balanced batches: a plan for items with classes."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.evaluation.labels import UNLABELLED
from unlabeled.core.streams import rng


@dataclass(frozen=True)
class Balanced:
    """A plan of one batch per epoch, with every class equally often (the remainder by lot).

    label (N,) per item, -1 for items that are never drawn. Within a class no item comes twice before all came once.
    """

    label: NDArray[np.int64]
    batch_size: int

    def __call__(self, seed: int, epoch: int, without: Set[int] = frozenset()) -> list[NDArray[np.int64]]:
        draw = rng(seed, "balanced", epoch)
        usable = self.label.copy()
        usable[list(without)] = UNLABELLED
        present = draw.permutation(np.unique(usable[usable != UNLABELLED]))
        if len(present) == 0:
            return []
        share = np.full(len(present), self.batch_size // len(present))
        share[: self.batch_size % len(present)] += 1
        ids = [np.resize(draw.permutation(np.flatnonzero(usable == c)), n) for c, n in zip(present, share, strict=True)]
        return [np.concatenate(ids)]

    def steps(self, epoch: int, without: Set[int] = frozenset()) -> int:
        return int(any(i not in without for i in np.flatnonzero(self.label != UNLABELLED)))
