"""Mixtures of two items (Zhang et al. 2018, mixup). It stands alone for every method that mixes whole items, of any rank."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch.nn.functional as F
from torch import Tensor, tensor

from unlabeled.core import ranks
from unlabeled.core.contracts.batch import Dense


def mixed(first: Dense, second: Dense, other: Tensor, share: float) -> Dense:
    """`share` of every item of `first`, and for the rest the item `other` (B,) among all ranks' rows of `second`.

    Where only one of the two is valid it stands alone. Items of unlike size lie in the same corner; the mixture has the
    spacing of the first. A rank pads its items to a grid of its own, so with several ranks this waits for the device
    once, to learn the largest; and every rank holds the second view of all items for a moment.
    """
    grids = [x.values.shape[2:] for x in (first, second)]
    whole = first.whole and second.whole and grids[0] == grids[1]
    mine = [*map(max, *grids), max(first.valid.shape[1], second.valid.shape[1]), int(not whole)]
    each = [mine] if ranks.world() == 1 else ranks.gather(tensor([mine], device=other.device)).tolist()
    *grid, channels, _ = map(max, zip(*each, strict=True))
    whole = whole and all(x == mine for x in each)

    a, b = (_on_grid(x, grid, channels) for x in (first, second))
    theirs = ranks.gather(b.values).index_select(0, other)
    if whole:
        return replace(a, values=share * a.values + (1 - share) * theirs)
    # not every backend gathers booleans
    there = ranks.gather(b.valid.byte()).index_select(0, other).bool()
    ours, rest = a.valid.to(a.values.dtype) * share, there.to(a.values.dtype) * (1 - share)
    both = ours + rest
    total = a.values.masked_fill(~a.valid, 0) * ours + theirs.masked_fill(~there, 0) * rest
    return replace(a, values=total / both.masked_fill(both == 0, 1), valid=a.valid | there, whole=False)


def _on_grid(x: Dense, grid: Sequence[int], channels: int) -> Dense:
    """The same items on a larger grid, with the validity of so many channels."""
    ends = [n for new, old in zip(reversed(grid), reversed(x.values.shape[2:]), strict=True) for n in (0, new - old)]
    valid = x.valid.expand(-1, channels, *x.valid.shape[2:])
    return replace(x, values=F.pad(x.values, ends), valid=F.pad(valid, ends))
