"""Gradients of grids of any rank, by the kernels of Sobel and Scharr.

Alone because targets share it: histograms of gradients (`targets.hog`) and maps of gradients (MaskFeat, Uni4Eye).
"""

from __future__ import annotations

from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core.tokens.extent import reflected

Kernel = Literal["sobel", "scharr", "central"]
# weight of a cell and of its two neighbours, along every axis but that of the difference
SMOOTHING: dict[Kernel, tuple[float, float]] = {"sobel": (2, 1), "scharr": (10, 3), "central": (1, 0)}


@torch.no_grad()
def gradients(x: Tensor, valid: Tensor | None, kernel: Kernel = "sobel") -> tuple[Tensor, Tensor]:
    """Differences along every axis (B, C, d, *S), in the order of the axes, and their validity (B, 1 | C, *S).

    x       (B, C, *S) with d axes
    valid   (B, 1 | C, *S) bool, what is invalid may hold anything; None: all is, which is faster
    kernel  x[i + 1] - x[i - 1] along one axis, smoothed along the others by 1, 2, 1 (`sobel`), by 3, 10, 3 (`scharr`) or
            not at all (`central`): a slope of 1 per cell gives 2 * 4^(d - 1), 2 * 16^(d - 1) or 2

    The item, the smallest box around what is valid, is reflected at its edges, the edge itself not repeated, so that a
    difference across an edge is 0. A gradient is valid where the cell is and all that are read for it, along any axis.
    At least fp32, outside autocast; what is not valid is finite and of no use.
    """
    middle, side = SMOOTHING[kernel]
    axes = range(2, x.ndim)
    with torch.autocast(x.device.type, enabled=False):
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if valid is None and min(x.shape[2:]) > 1:
            wide = F.pad(x, (1, 1) * len(axes), mode="reflect")
            there = torch.ones_like(x[:, :1], dtype=torch.bool)
        else:
            valid = torch.ones_like(x[:, :1], dtype=torch.bool) if valid is None else valid
            wide, seen = reflected(torch.where(valid, x, 0), valid, 1)
            there = reduce(torch.logical_and, [_read(seen, axis, wholly=side > 0) for axis in axes], valid)
        return torch.stack([_along(wide, axis, middle, side) for axis in axes], 2), there


def magnitude(gradient: Tensor, kind: Literal["l2", "mean"] = "l2") -> Tensor:
    """(B, C, d, *S) -> (B, C, *S): the root of the sum of squares, or the mean of the sizes along the axes.

    Of two axes the latter is 0.5 |dx| + 0.5 |dy|, the gradient map of Uni4Eye (Cai et al. 2022).
    """
    return gradient.square().sum(2).sqrt() if kind == "l2" else gradient.abs().mean(2)


def _thirds(x: Tensor, axis: int) -> tuple[Tensor, Tensor, Tensor]:
    """The cells before, at and after every cell but the first and the last of an axis."""
    n = x.shape[axis] - 2
    return x.narrow(axis, 0, n), x.narrow(axis, 1, n), x.narrow(axis, 2, n)


def _along(x: Tensor, axis: int, middle: float, side: float) -> Tensor:
    """The difference comes first and the neighbours are added first: a constant gives 0, a flip the same, to the bit."""
    before, _, after = _thirds(x, axis)
    x = after - before
    for other in range(2, x.ndim):
        if other != axis:
            before, at, after = _thirds(x, other)
            x = (before + after).mul_(side).add_(at, alpha=middle) if side else at
    return x


def _read(valid: Tensor, axis: int, wholly: bool) -> Tensor:
    """Whether all is valid that `_along` reads."""
    before, _, after = _thirds(valid, axis)
    valid = before & after
    for other in range(2, valid.ndim):
        if other != axis:
            before, at, after = _thirds(valid, other)
            valid = before & at & after if wholly else at
    return valid
