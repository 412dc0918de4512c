"""Corruption of tokens of a vocabulary, as BERT does it (Devlin et al. 2019, section 3.1, task 1).

It stands alone because encoders of packets, URLs and clicks corrupt by the same rule in losses of their own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def replaced(
    ids: Tensor, chosen: Tensor, sizes: Sequence[int], lot: Tensor, noise: Tensor, masked: float, random: float
) -> tuple[Tensor, Tensor]:
    """The ids (B, L, C) with some tokens replaced, and which tokens (B, L) the mask token shall stand for.

    Of the chosen tokens (B, L) bool the share `masked` gets the mask token and the share `random` a random id in every
    channel c, which is below sizes[c] and may be the true one; the others stay. lot (B, L) and noise (B, L, C): uniform.
    """
    # in doubles, where a number below 1 times a size stays below the size
    drawn = torch.stack([(noise[..., c].double() * size).long() for c, size in enumerate(sizes)], -1)
    at_random = chosen & (lot >= masked) & (lot < masked + random)
    return torch.where(at_random[..., None], drawn, ids), chosen & (lot < masked)
