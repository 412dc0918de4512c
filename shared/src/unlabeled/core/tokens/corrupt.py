"""Corruption of the raw patches of hidden places (Atito et al. 2021, SiT; 2022, GMML).

It stands alone since both methods use it, SiT through GMML, and any denoiser of patches may.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unlabeled.core.tokens.tokens import Tokens

# what stands in the hidden places of an item
NOISE, ZEROS, OTHER = 0, 1, 2


def kinds(draws: Tensor, noise: float, zeros: float, other: float) -> Tensor:
    """Uniform draws (B,) -> which kind of corruption an item gets, with these shares of all; (B,) int64."""
    total = noise + zeros + other
    return (draws >= noise / total).long() + (draws >= (noise + zeros) / total).long()


def corrupted(tokens: Tokens, hidden: Tensor, kind: Tensor, noise: Tensor, other: Tensor | None) -> Tokens:
    """`tokens` with something else in the hidden places; what is invalid stays so, and zero.

    hidden (B, L) bool; kind (B,) of `kinds`; noise (B, L, P); other (B, L, P) the patches of another item at the same
    places, zero where it has none, and None where no item is of this kind. Zeros are the mean of normalised values.
    """
    kind = kind[:, None, None]
    instead = torch.where(kind == NOISE, noise.to(tokens.patches.dtype), 0)
    if other is not None:
        instead = torch.where(kind == OTHER, other, instead)
    return replace(tokens, patches=torch.where(hidden[..., None] & tokens.elements, instead, tokens.patches))
