"""Dynamic pruning: train on all items for a while, then on those that a choice keeps, made anew every few epochs."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from unlabeled.core.contracts.recipe import Strict
from unlabeled.core.data.plans.plain import Uniform

Ids = NDArray[np.int64]


class Choices(Protocol):
    """Makes choices, and keeps them; rounds count from 1.

    make    the sorted ids that stay, by the method as it is now; the same on every rank
    sha256  of what is kept of a round
    read    what is kept of a round. Raises RunFailed where it is gone or was altered
    """

    def make(self, number: int, method: Any) -> Ids: ...

    def sha256(self, number: int) -> str: ...

    def read(self, number: int, sha256: str) -> Ids: ...


class Pruned:
    """Uniform over the items that stay (Kerdreux et al. 2025, section 3).

    Round 0 is the warm-up, on all items. Round r begins after `warmup + (r - 1) * every` epochs with a choice made from
    the features that the encoder then has; it is asked for once, on the first rank, and is part of the run from then on:
    a resume reads it, and a run that goes back before it chooses anew.
    """

    class Options(Strict):
        warmup: int = Field(5, ge=1, description="epochs on all items")
        every: int = Field(5, ge=1, description="epochs from one choice to the next")
        share: float = Field(0.5, gt=0, le=1, description="of the items that stay")
        nearness: float = Field(
            0.5, ge=0, le=1, description="of the picks within a cluster: 1: those near its centre, 0: those far from it"
        )
        levels: tuple[int, ...] = Field(
            (100, 10), min_length=1, description="clusters of each level of k-means, the most first"
        )
        subset: int | None = Field(None, ge=2, description="items that a choice is made from, by lot; none: all")

    def __init__(self, items: int, batch_size: int, options: Options, choices: Choices) -> None:
        self.batch_size, self.options, self.choices = batch_size, options, choices
        self.rounds: list[Ids] = [np.arange(items)]

    def round_of(self, epoch: int) -> int:
        o = self.options
        return 0 if epoch < o.warmup else 1 + (epoch - o.warmup) // o.every

    def known(self, epoch: int) -> bool:
        """Whether what stays in this epoch has been chosen."""
        return self.round_of(epoch) < len(self.rounds)

    def renew(self, epoch: int, method: Any) -> None:
        """Choose for the round of this epoch."""
        self.rounds.append(self.choices.make(self.round_of(epoch), method))

    def state(self) -> list[str]:
        """The SHA-256 of every choice so far."""
        return [self.choices.sha256(r) for r in range(1, len(self.rounds))]

    def restore(self, state: list[str]) -> None:
        self.rounds[1:] = [self.choices.read(r, sha256) for r, sha256 in enumerate(state, 1)]

    def _kept(self, epoch: int, without: Set[int]) -> Ids:
        kept = self.rounds[self.round_of(epoch)]
        return kept[~np.isin(kept, list(without))] if without else kept

    def __call__(self, seed: int, epoch: int, without: Set[int] = frozenset()) -> list[Ids]:
        kept = self._kept(epoch, without)
        return [kept[at] for at in Uniform(len(kept), self.batch_size)(seed, epoch)]

    def steps(self, epoch: int, without: Set[int] = frozenset()) -> int:
        return len(self._kept(epoch, without)) // self.batch_size
