"""Plan: which items form which batch, as a pure function of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Set
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Plan(Protocol):
    """`plan(seed, epoch, without)` gives the epoch's batches, each an int64 array of item ids.

    `without` holds the items that failed in earlier epochs. The same arguments give the same batches on every rank, in
    every worker and after a resume; the position of a run is its number of completed steps, counted through the epochs.
    `steps` is the number of those batches, without making them.
    """

    def __call__(self, seed: int, epoch: int, without: Set[int] = frozenset()) -> list[NDArray[np.int64]]: ...

    def steps(self, epoch: int, without: Set[int] = frozenset()) -> int: ...
