"""Pooling over valid tokens. A row without one pools to zeros, never to NaN."""

from __future__ import annotations

import torch
from torch import Tensor


def mean_pool(tokens: Tensor, valid: Tensor) -> Tensor:
    """(B, L, D), valid (B, L) -> (B, D)."""
    total = torch.where(valid[..., None], tokens, 0).sum(1)
    return total / valid.sum(1, keepdim=True).clamp_min(1)


def max_pool(tokens: Tensor, valid: Tensor) -> Tensor:
    """(B, L, D), valid (B, L) -> (B, D)."""
    highest = tokens.masked_fill(~valid[..., None], -torch.inf).amax(1)
    return torch.where(valid.any(1, keepdim=True), highest, 0)


def share_pool(tokens: Tensor, shares: Tensor) -> Tensor:
    """(B, L, D), shares (B, L, R) of at least 0 -> (B, R, D): R means of the tokens, each weighted by a column."""
    shares = shares.to(tokens.dtype)
    mass = shares.sum(1)[..., None]
    return shares.transpose(1, 2) @ tokens / torch.where(mass > 0, mass, 1)
