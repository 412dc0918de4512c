"""Tokens of a vocabulary: whole numbers as vectors, and from features back. What encoders of packets, URLs and codes need."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def whole_numbers(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Values (B, L, C) as ids, int64 with channel c below sizes[c]: rounded, the nearest id where out of range, NaN as 0."""
    x = x.nan_to_num()
    return torch.stack([x[..., c].round().clamp(0, size - 1).long() for c, size in enumerate(sizes)], -1)


class IdEmbedding(nn.Module):
    """(B, L, C) whole numbers, channel c below sizes[c], -> (B, L, width): the sum of a vector for each channel's number.

    A value is rounded, and one outside its range becomes the nearest one inside. Rows of the table begin with about unit
    length, so that logits may be read with it, and vectors are its rows times sqrt(width), as large as the positions that
    are added to them (Vaswani et al. 2017, section 3.4): smaller ones are drowned, and nothing is learned.
    """

    def __init__(self, sizes: Sequence[int], width: int) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.table = nn.Parameter(torch.randn(sum(sizes), width) * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        firsts = (0, *accumulate(self.sizes[:-1]))
        ids = whole_numbers(x, self.sizes)
        vectors = torch.stack([self.table[ids[..., c] + first] for c, first in enumerate(firsts)]).sum(0)
        return vectors * self.table.shape[1] ** 0.5  # type: ignore[no-any-return]


class IdLogits(nn.Module):
    """Features (B, L, width) -> logits (B, L, sizes[c]) of every channel (Devlin et al. 2019, BERT: the masked LM's head).

    A layer with GELU and layer norm, then the product with the table of the embedding, which is `tied` to it, or with a
    matrix of its own; a bias for every id. The norm begins with a small gain: untrained, all ids are about equally likely.
    """

    def __init__(self, width: int, embedding: IdEmbedding, tied: bool = True) -> None:
        super().__init__()
        self.sizes = embedding.sizes
        rows, out = embedding.table.shape
        self.transform = nn.Sequential(nn.Linear(width, out), nn.GELU(), nn.LayerNorm(out))
        nn.init.constant_(self.transform[2].weight, 0.1)  # type: ignore[arg-type]
        self.table = None if tied else nn.Parameter(torch.randn(rows, out) * out**-0.5)
        self.bias = nn.Parameter(torch.zeros(rows))

    def forward(self, x: Tensor, embedding: IdEmbedding) -> tuple[Tensor, ...]:
        table = embedding.table if self.table is None else self.table
        return torch.split(F.linear(self.transform(x), table, self.bias), list(self.sizes), -1)


@torch.no_grad()
def sample(logits: Tensor, noise: Tensor) -> Tensor:
    """An id (...) of softmax(logits) (..., V) for every uniform number in [0, 1) (...), by the inverse distribution.

    One number for an id, where Gumbel noise would need V; an id without probability is never drawn.
    """
    line = logits.double().softmax(-1).cumsum(-1)
    found = torch.searchsorted(line, noise.double()[..., None].contiguous(), right=True)[..., 0]
    return found.clamp_max(logits.shape[-1] - 1)
