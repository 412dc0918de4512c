"""Plans in which parts of the data have shares of their own: some items come more often than others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Set

import numpy as np

from unlabeled.core.data.plans.dealing import NOWHERE, Ids, dealt, repeated
from unlabeled.core.streams import rng


class InParts(ABC):
    """As many items an epoch as the parts have, but of each part as many as `_counts` says, spread evenly over the batches.

    Of a part that gives fewer than it has, the items are drawn by lot; of one that gives more, each comes as often as the
    others or once more. An item never comes twice in a batch. Where it comes again in an epoch it has the same draws, since
    these are keyed by seed, epoch and item: the same views, in other company. part (N,) int64, -1: never drawn.
    """

    def __init__(self, part: Ids, batch_size: int) -> None:
        self.part, self.batch_size = part, batch_size
        self.parts = int(part.max(initial=NOWHERE)) + 1

    @abstractmethod
    def _counts(self, sizes: Ids, steps: int) -> Ids:
        """(P,) items of each part, `steps` times the batch size in all, at most `steps` times its size (P,) of any."""

    def _sizes(self, without: Set[int]) -> Ids:
        part = self.part.copy()
        part[list(without)] = NOWHERE
        return np.bincount(part[part != NOWHERE], minlength=self.parts)

    def __call__(self, seed: int, epoch: int, without: Set[int] = frozenset()) -> list[Ids]:
        draw, steps, part = rng(seed, "parts", epoch), self.steps(epoch, without), self.part.copy()
        part[list(without)] = NOWHERE
        counts = self._counts(self._sizes(without), steps)
        ids = [repeated(np.flatnonzero(part == p), int(n), draw) for p, n in enumerate(counts)]
        return dealt(np.concatenate(ids), steps, draw)

    def steps(self, epoch: int, without: Set[int] = frozenset()) -> int:
        return int(self._sizes(without).sum()) // self.batch_size
