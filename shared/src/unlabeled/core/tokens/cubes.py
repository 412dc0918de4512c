"""Masks of equal cubes that begin anywhere, also before the grid, so that every token is in one equally often."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unlabeled.core.tokens.masks import Mask, Rounding, keep_lowest


def earliest(time: Tensor, length: int, most: int) -> Tensor:
    """(B, *S): when a token is first in a cube of `length` tokens along each axis.

    time (B, *(S + most - 1)): when the cube comes that begins at this place, counted from most - 1 tokens before the grid;
    length is at most `most`.
    """
    for axis in range(1, time.ndim):
        n = time.shape[axis] - most + length
        time = time.narrow(axis, most - length, n).unfold(axis, length, 1).amin(-1)
    return time


def cluster_mask(
    valid: Tensor,
    ratio: float,
    size: Tensor,
    time: Tensor,
    noise: Tensor,
    sizes: Sequence[int] = (3, 5),
    rounding: Rounding = "keep",
) -> Mask:
    """Hides cubes, squares in two dimensions, until the count is met (Gong et al. 2022, SSAST, section 3.2).

    valid (B, L) bool, size (B,) uniform: tokens of an item's cubes along each axis, sizes[0] to sizes[1]; time
    (B, *(grid + sizes[1] - 1)) uniform, as `earliest`, and noise (B, L) uniform: what stays of the last cube.

    The authors' code never hides the first token, lets cubes wrap around the border, and cuts what is too much from the
    end: in their grid the lowest frequencies are hidden half as often as the others. Here all are hidden alike.
    """
    least, most = sizes
    side = least + (size.to(torch.float64) * (most - least + 1)).long()
    when = torch.zeros_like(noise)
    for length in range(least, most + 1):
        when = torch.where((side == length)[:, None], earliest(time, length, most).flatten(1), when)
    # times are multiples of 2^-24
    return keep_lowest(-(when.to(torch.float64) + 2**-25 * noise), valid, ratio, rounding)
