"""Positions from coordinates, so that dropping or permuting tokens with their coordinates is exact.

A position (B, L, d) is a coordinate counted in patches: 0 is the centre of the first patch, 1 that of the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor


def in_patches(coords: Tensor, scale: Sequence[float]) -> Tensor:
    """Coordinates (B, L, d) in units -> positions, given the size of a patch in those units."""
    # axis by axis with Python numbers: a tensor of the scale would be one copy to the device in every step
    return torch.stack([coords[..., i] / s - 0.5 for i, s in enumerate(scale)], -1)


def sincos(position: Tensor, width: int) -> Tensor:
    """(B, L, d) -> (B, L, width) sines and cosines, in at least fp32.

    Every axis gets floor(width / 2d) frequencies 10000^(-i/n), i = 0 ... n-1, as [sines, cosines]; the last axis comes
    first and what is left of the width is zero. For d = 2 and integer positions this is `get_2d_sincos_pos_embed` of
    He et al. 2022 (MAE), whose half named `emb_h` holds the w coordinate.
    """
    position = position.to(torch.promote_types(position.dtype, torch.float32))
    d = position.shape[-1]
    n = width // (2 * d)
    frequency = 10000.0 ** -(torch.arange(n, device=position.device, dtype=position.dtype) / n)
    angle = position.flip(-1)[..., None] * frequency
    out = torch.stack([angle.sin(), angle.cos()], -2).flatten(-3)
    return torch.nn.functional.pad(out, (0, width - out.shape[-1]))


def interpolate(table: Tensor, position: Tensor) -> Tensor:
    """Learned table (G_1, ..., G_d, D) at positions (B, L, d) -> (B, L, D): d-linear, exact on the grid, clamped outside."""
    sizes = table.shape[:-1]
    position = position.to(torch.promote_types(position.dtype, torch.float32))
    clamped = [position[..., i].clamp(0, g - 1) for i, g in enumerate(sizes)]
    low = [p.floor().clamp_max(max(0, g - 2)) for p, g in zip(clamped, sizes, strict=True)]
    out = torch.zeros((), device=table.device, dtype=table.dtype)
    for corner in product((0, 1), repeat=len(sizes)):
        weight = torch.ones((), device=table.device, dtype=position.dtype)
        index = []
        for step, p, lo, g in zip(corner, clamped, low, sizes, strict=True):
            weight = weight * ((p - lo) if step else (1 - (p - lo)))
            index.append((lo.long() + step).clamp_max(g - 1))
        out = out + weight[..., None].to(table.dtype) * table[tuple(index)]
    return out


# The base of CroCo v2 and DINOv3: the slowest wave is about as long as an image has patches.
ROPE_BASE = 100.0


def rotary(position: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (B, 1, L, width / 2) by which `rotate` turns queries and keys of `width` channels a head.

    Su et al. 2021 (RoFormer), along every axis of position (B, L, d) by itself as Weinzaepfel et al. 2023 (CroCo v2): an
    axis turns floor(width / 2d) pairs with the frequencies 100^(-i/n), the pairs that are left stay. At least fp32.
    """
    position = position.to(torch.promote_types(position.dtype, torch.float32))
    n = width // (2 * position.shape[-1])
    frequency = ROPE_BASE ** -(torch.arange(n, device=position.device, dtype=position.dtype) / max(1, n))
    angle = (position[..., None] * frequency).flatten(-2)
    angle = torch.nn.functional.pad(angle, (0, width // 2 - angle.shape[-1]))[:, None]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Channels (B, heads, L, width) turned in pairs (i, i + width / 2): products of two depend on differences of positions."""
    cos, sin = (t.to(x.dtype) for t in turn)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
