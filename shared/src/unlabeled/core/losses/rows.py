"""Rows that count, and rows that are only there to fill a batch."""

from __future__ import annotations

import torch
from torch import Tensor


def present(z: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor]:
    """z (B, D) in at least fp32 with its rows of weight 0 set to 0, and the weight (B,) in the same type, None: ones.

    Such a row may hold NaN, and 0 * NaN is NaN, in a product as in its gradient: it leaves before the first product.
    """
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    if weight is None:
        return z, z.new_ones(len(z))
    return torch.where(weight[:, None] > 0, z, 0), weight.to(z.dtype)
