"""Going back: where the data of a step lie in the plan once batches were left out.

A run that goes back to a checkpoint leaves out the batches between it and the place of the trouble (Chowdhery et al.
2022, PaLM, section 5.1): with the same data the same steps would lead to the same end. A skip is (step, n): from this
step on, n further batches of the plan are left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

Skip = tuple[int, int]


def position(step: int, skips: Sequence[Skip]) -> int:
    """How many batches of the plan were used or left out before the data of `step`."""
    return step + sum(n for at, n in skips if at <= step)


def ranges(start: int, stop: int, skips: Sequence[Skip]) -> Iterator[tuple[int, int]]:
    """The plan's positions of the steps start ... stop - 1, as ranges."""
    edges = [start, *sorted({at for at, _ in skips if start < at < stop}), stop]
    for a, b in itertools.pairwise(edges):
        first = position(a, skips)
        yield first, first + b - a


def leave_out(skips: Sequence[Skip], back: int, done: int) -> list[Skip]:
    """`skips` of a run that goes back from `done` completed steps to `back`, leaving out all data in between."""
    kept = [(at, n) for at, n in skips if at <= back]
    return [*kept, (back, position(done, skips) - position(back, skips))]
