"""The extent of an item: the smallest box around what is valid, so that padding moves nothing that is placed by it."""

from __future__ import annotations

import torch
from torch import Tensor


def extent(valid: Tensor) -> list[tuple[Tensor, Tensor]]:
    """First and last cell (B,) int64 along each axis; the whole grid where nothing is valid. valid (B, C, *S) bool."""
    found = []
    for axis in range(2, valid.ndim):
        others = [a for a in range(1, valid.ndim) if a != axis]
        seen = valid.any(dim=others).to(torch.uint8)
        found.append((seen.argmax(1), seen.shape[1] - 1 - seen.flip(1).argmax(1)))
    return found


def take(x: Tensor, axis: int, index: Tensor) -> Tensor:
    """The cells `index` (B, n) of x (B, C, *S) along `axis`, each item's own."""
    return x.take_along_dim(index.view(len(index), *[-1 if a == axis else 1 for a in range(1, x.ndim)]), axis)


def reflected(x: Tensor, valid: Tensor, far: int) -> tuple[Tensor, Tensor]:
    """x (B, C, *S) and valid (B, 1 | C, *S), `far` cells wider at every end, each item reflected at the edges of its extent.

    The edge itself is not repeated. An item smaller than `far` is reflected again and again.
    """
    for axis, (first, last) in enumerate(extent(valid), 2):
        at = torch.arange(-far, x.shape[axis] + far, device=x.device)
        period = 2 * (last - first).clamp_min(1)
        beyond = (at - first[:, None]).remainder(period[:, None])
        index = first[:, None] + beyond.minimum(period[:, None] - beyond).minimum((last - first)[:, None])
        x, valid = take(x, axis, index), take(valid, axis, index)
    return x, valid
