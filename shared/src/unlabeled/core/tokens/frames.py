"""Pairs of frames of a clip, whose first axis is time (Gupta et al. 2023, SiamMAE, section 3).

It stands alone because any method of video that compares two moments of a clip may take it, and to be tested by itself.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.tokens.extent import extent, take


def frame_pair(x: Dense, draws: Tensor, gap: tuple[int, int], length: int = 1) -> tuple[Dense, Dense]:
    """A later and an earlier piece of every clip, each `length` frames long: grids (length, *S) without a place in time.

    x      values (B, C, T, *S)
    draws  (B, 2) uniform: how far the two are apart, and where they lie among the valid frames
    gap    frames from the begin of one to the begin of the other, uniform from the first number to the second; less where
           the clip is shorter, and never less than `length`, so that they share no frame. A clip with no room for two has
           no earlier piece: that one is all invalid.
    """
    frames = x.values.shape[2]
    first, last = extent(x.valid)[0]
    room = (last - first + 1 - length).clamp_min(0)
    low, high = max(gap[0], length), max(gap[1], length)
    apart = (low + _below(draws[:, 0], torch.full_like(room, high - low + 1))).minimum(room)
    earlier = first + _below(draws[:, 1], room - apart + 1)
    enough = apart >= length

    def piece(start: Tensor, there: Tensor) -> Dense:
        at = start[:, None] + torch.arange(length, device=start.device)
        valid = take(x.valid, 2, at.clamp_max(frames - 1))
        shown = ((at <= last[:, None]) & there[:, None]).view(-1, 1, length, *[1] * (x.rank - 1))
        values = take(x.values, 2, at.clamp_max(frames - 1))
        return replace(x, values=values, valid=valid & shown, whole=x.whole and frames >= 2 * length)

    return piece(earlier + apart, torch.ones_like(enough)), piece(earlier, enough)


def _below(draw: Tensor, n: Tensor) -> Tensor:
    """A whole number from 0 to n - 1 (B,), from uniform draws (B,)."""
    return (draw.to(torch.float64) * n).long().minimum(n - 1)
