"""Packed sequences, sets and graphs as padded tokens."""

from __future__ import annotations

import torch

from unlabeled.core.contracts.batch import Packed
from unlabeled.core.tokens.tokens import Tokens


def packed_tokens(packed: Packed) -> Tokens:
    """Values (N, C) -> tokens (B, L, C), L the longest row and at least 1; a token of the pack is one patch.

    Waits for the device once, to learn L.
    """
    owner = packed.owner
    length = max(1, int(packed.offsets.diff().max()))
    at = torch.arange(len(owner), device=owner.device) - packed.offsets[owner]
    c, d = packed.values.shape[1], packed.coords.shape[1]
    values = packed.values.new_zeros(packed.size, length, c)
    coords = packed.coords.new_zeros(packed.size, length, d)
    valid = packed.valid.new_zeros(packed.size, length)
    values[owner, at], coords[owner, at], valid[owner, at] = packed.values, packed.coords, packed.valid
    return Tokens.of(values, valid[..., None].expand(-1, -1, c), coords)
