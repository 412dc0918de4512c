"""Tokens of a vocabulary: whole numbers as vectors. The embedding of encoders of packets, URLs and codes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn


class IdEmbedding(nn.Module):
    """(B, L, C) whole numbers, channel c below sizes[c], -> (B, L, width): the sum of a vector for each channel's number.

    A value is rounded, and one outside its range becomes the nearest one inside.
    """

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.table = nn.Parameter(torch.randn(sum(sizes), width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        firsts = (0, *accumulate(self.sizes[:-1]))
        vectors = [
            self.table[x[..., c].round().clamp(0, size - 1).long() + first]
            for c, (size, first) in enumerate(zip(self.sizes, firsts, strict=True))
        ]
        return torch.stack(vectors).sum(0)
