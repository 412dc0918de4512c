"""Frames of a clip, whose first axis is time, some way apart (Gupta et al. 2023, SiamMAE, section 3).

It stands alone because any method of video that compares moments of a clip may take it, and to be tested by itself.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.tokens.extent import extent, take


def frame_pair(x: Dense, draws: Tensor, gap: tuple[int, int], length: int = 1) -> tuple[Dense, Dense]:
    """A later and an earlier piece of every clip, as `frames` gives them; a clip with no room for two has no earlier one."""
    (earlier, later), enough = frames(x, draws, gap, length, 2)
    there = enough.view(-1, *[1] * (x.rank + 1))
    return later, replace(earlier, valid=earlier.valid & there, whole=x.whole and x.values.shape[2] >= 2 * length)


def frames(x: Dense, draws: Tensor, gap: tuple[int, int], length: int, count: int) -> tuple[tuple[Dense, ...], Tensor]:
    """`count` pieces of every clip in order of time, each `length` frames long: grids (length, *S) without a place in time.

    x      values (B, C, T, *S)
    draws  (B, 2) uniform: how far two neighbours are apart, and where the first lies among the valid frames
    gap    frames from the begin of one to the begin of the next, uniform from the first number to the second; less where
           the clip is shorter, and never less than `length`, so that they share no frame

    With them, whether the clip has room for all (B,): where it has not, pieces lie on each other.
    """
    total = x.values.shape[2]
    first, last = extent(x.valid)[0]
    room = (last - first + 1 - length).clamp_min(0)
    low, high = max(gap[0], length), max(gap[1], length)
    apart = (low + _below(draws[:, 0], torch.full_like(room, high - low + 1))).minimum(room // (count - 1))
    start = first + _below(draws[:, 1], room - apart * (count - 1) + 1)

    def piece(start: Tensor) -> Dense:
        at = start[:, None] + torch.arange(length, device=start.device)
        shown = (at <= last[:, None]).view(-1, 1, length, *[1] * (x.rank - 1))
        values, valid = (take(t, 2, at.clamp_max(total - 1)) for t in (x.values, x.valid))
        return replace(x, values=values, valid=valid & shown, whole=x.whole and total >= length)

    return tuple(piece(start + i * apart) for i in range(count)), apart >= length


def _below(draw: Tensor, n: Tensor) -> Tensor:
    """A whole number from 0 to n - 1 (B,), from uniform draws (B,)."""
    return (draw.to(torch.float64) * n).long().minimum(n - 1)
