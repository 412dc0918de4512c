"""Plan: which items form which batch, as a pure function of the seed and the epoch."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Protocol, runtime_checkable

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


@runtime_checkable
class Renewed(Plan, Protocol):
    """A plan that depends on what was learned: it chooses, from time to time, which items the next epochs are made of.

    known   whether the epoch's items are chosen; without that it has no batches and no number of steps
    renew   chooses them, by the method as it is, the same on every rank
    state   what was chosen so far, as checkpoints hold it; `restore` brings it back, and forgets later choices
    """

    def known(self, epoch: int) -> bool: ...

    def renew(self, epoch: int, method: Any) -> None: ...

    def state(self) -> list[str]: ...

    def restore(self, state: list[str]) -> None: ...
