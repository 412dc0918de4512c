"""Patches of any rank by reshape and permute.

Shapes: B rows, C channels, S = (S_1 ... S_d) the grid's shape, p = (p_1 ... p_d) the patch, G_i = S_i / p_i,
L = prod(G) patches in raster order (last axis fastest), P = prod(p) * C elements of a patch with channels last, which is
the order of He et al. 2022 (MAE, `nhwpqc`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.tokens.tokens import Tokens


def grid_of(shape: Sequence[int], patch: Sequence[int]) -> tuple[int, ...]:
    """Number of patches along each axis, the last one padded where it is not full."""
    return tuple(-(-s // p) for s, p in zip(shape, patch, strict=True))


def patchify(x: Tensor, patch: Sequence[int]) -> Tensor:
    """(B, C, *S) -> (B, L, P). Raises ValueError where S is no multiple of the patch (see `pad_to_patches`)."""
    b, c, *shape = x.shape
    if len(shape) != len(patch) or any(s % p for s, p in zip(shape, patch, strict=True)):
        raise ValueError(f"a grid of shape {tuple(shape)} cannot be cut into patches of {tuple(patch)}")
    grid, d = grid_of(shape, patch), len(shape)
    pairs = [n for g, p in zip(grid, patch, strict=True) for n in (g, p)]
    x = x.reshape(b, c, *pairs).permute(0, *range(2, 2 + 2 * d, 2), *range(3, 3 + 2 * d, 2), 1)
    return x.reshape(b, math.prod(grid), math.prod(patch) * c)


def unpatchify(patches: Tensor, grid: Sequence[int], patch: Sequence[int]) -> Tensor:
    """(B, L, P) -> (B, C, *S) with S = grid * patch, the inverse of `patchify`."""
    b, d = patches.shape[0], len(grid)
    x = patches.reshape(b, *grid, *patch, -1)
    order = [axis for i in range(d) for axis in (1 + i, 1 + d + i)]
    x = x.permute(0, 1 + 2 * d, *order)
    return x.reshape(b, x.shape[1], *(g * p for g, p in zip(grid, patch, strict=True)))


def pad_to_patches(dense: Dense, patch: Sequence[int]) -> Dense:
    """`dense` with zeros marked invalid after the end of every axis that is no multiple of the patch."""
    shape = dense.values.shape[2:]
    tail = [g * p - s for g, p, s in zip(grid_of(shape, patch), patch, shape, strict=True)]
    if not any(tail):
        return dense
    pads = [n for t in reversed(tail) for n in (0, t)]
    return replace(dense, values=F.pad(dense.values, pads), valid=F.pad(dense.valid, pads), whole=False)


def grid_coords(grid: Sequence[int], patch: Sequence[int], spacing: Tensor) -> Tensor:
    """(B, L, d) centre of each patch in the unit of `spacing` (B, d), measured from the outer corner of the first cell.

    A cell is one spacing wide, so patch i of an axis has its centre at (i + 1/2) * p * spacing.
    """
    axes = [torch.arange(g, device=spacing.device, dtype=spacing.dtype) for g in grid]
    index = torch.stack([a.flatten() for a in torch.meshgrid(*axes, indexing="ij")], -1)
    steps = torch.stack([spacing[:, i] * p for i, p in enumerate(patch)], -1)
    return (index + 0.5) * steps[:, None, :]


def patch_valid(valid: Tensor, patch: Sequence[int], channels: int) -> tuple[Tensor, Tensor]:
    """Validity (B, 1 | C, *S) by element (B, L, P) and by token (B, L): any valid element makes a token valid."""
    elements = patchify(valid.expand(-1, channels, *valid.shape[2:]), patch)
    return elements, elements.any(-1)


def dense_tokens(dense: Dense, patch: Sequence[int]) -> Tokens:
    """Patches of a dense input as tokens, the last patches padded where they are not full."""
    dense = pad_to_patches(dense, patch)
    grid = grid_of(dense.values.shape[2:], patch)
    patches, coords = patchify(dense.values, patch), grid_coords(grid, patch, dense.spacing)
    if dense.whole:
        everything = dense.valid.new_ones(()).expand(patches.shape)
        return Tokens.of(patches, everything, coords, grid, whole=True)
    elements, _ = patch_valid(dense.valid, patch, dense.values.shape[1])
    return Tokens.of(patches, elements, coords, grid)
