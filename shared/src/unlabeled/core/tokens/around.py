"""Regions around tokens that are attended to. They stand alone for every method that compares such regions (GLARE first)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def picked(attention: Tensor, valid: Tensor, lots: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`count` different tokens of an item, or all it has, drawn with chances that are proportional to their attention.

    attention, valid and lots, uniform numbers in [0, 1), are (B, L). Returns their places (B, R) int64, and (B, R) bool,
    False for fillers. By Gumbel noise on the logarithms (Kool et al. 2019, section 2.3), whose largest are such a draw.
    """
    tiny = torch.finfo(torch.float32).tiny
    noise = -(-lots.clamp_min(tiny).log()).log()
    score = (attention.clamp_min(tiny).log() + noise).masked_fill(~valid, -torch.inf)
    found = score.topk(min(count, score.shape[1]), 1)
    return found.indices, found.values > -torch.inf


def around(positions: Sequence[Tensor], at: Tensor, radius: float) -> Tensor:
    """Which tokens lie at most `radius` from a token along every axis, itself among them; (B, L, R) bool.

    positions: of the tokens of each input, (B, L_i, d_i) in patches, in the order of the sequence. at (B, R): the places of
    the tokens in that sequence. Tokens of different inputs do not lie near each other.
    """
    near, start = [], 0
    for position in positions:
        length = position.shape[1]
        own = (at >= start) & (at < start + length)
        center = position.take_along_dim((at - start).clamp(0, length - 1)[..., None], 1)
        apart = (position[:, :, None] - center[:, None]).abs().amax(-1)
        near.append((apart <= radius + 1e-4) & own[:, None])
        start += length
    return torch.cat(near, 1)
