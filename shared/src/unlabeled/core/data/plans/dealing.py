"""Dealing items into batches so that what must not meet does not, as one deals cards."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]

NOWHERE = -1  # the part, or cluster, of an item that no batch gets


def dealt(ids: Ids, steps: int, draw: np.random.Generator) -> list[Ids]:
    """`steps` batches of equal size. What stands together in `ids`, up to `steps` in a row, lies in different batches."""
    if steps == 0:
        return []
    table = draw.permutation(ids.reshape(-1, steps).T)
    return list(draw.permuted(table, axis=1))


def repeated(ids: Ids, count: int, draw: np.random.Generator) -> Ids:
    """`count` of these items in random order, each as often as the others or once more, its copies side by side."""
    if count == 0:
        return ids[:0]
    times = np.full(len(ids), count // len(ids))
    times[: count % len(ids)] += 1
    return np.repeat(draw.permutation(ids), times)
