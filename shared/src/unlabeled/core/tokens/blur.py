"""Changes of single patches. They stand alone for every method whose student sees some patches worse (GLARE first)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unlabeled.core.tokens.tokens import Tokens


def blurred(tokens: Tokens, chosen: Tensor, share: Tensor, noise: Tensor, channels: int) -> Tokens:
    """`tokens` whose chosen patches are blurred and noisy; what is invalid stays so, and zero.

    chosen (B, L) bool. share (B, L) in [0, 1]: how far every cell goes towards the mean of its channel over the valid cells
    of the patch. noise (B, L, P) is added. channels: of a cell, which stand last in a patch.
    """
    shape = (*tokens.valid.shape, -1, channels)
    cells, there = tokens.patches.reshape(shape), tokens.elements.reshape(shape)
    mean = cells.sum(2, keepdim=True) / there.sum(2, keepdim=True).clamp_min(1)
    worse = cells.lerp(mean.expand_as(cells), share[..., None, None].to(cells.dtype)).flatten(2) + noise.to(cells.dtype)
    return replace(tokens, patches=torch.where(chosen[..., None] & tokens.elements, worse, tokens.patches))
