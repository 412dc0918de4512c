"""Masks from filtered noise (Hinojosa et al. 2024, ColorMAE), on a grid of any rank."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from unlabeled.core.tokens.masks import Mask, Rounding, keep_lowest

Color = Literal["red", "blue", "green", "purple"]


def noise_mask(
    valid: Tensor, ratio: float, white: Tensor, color: Color, sigma: tuple[float, float], rounding: Rounding = "keep"
) -> Mask:
    """Keeps the valid tokens (B, L) at which the filtered noise is lowest. white as `filtered` takes it."""
    return keep_lowest(filtered(white, color, sigma).flatten(1), valid, ratio, rounding)


def reach(sigma: tuple[float, float]) -> int:
    """Tokens that the filters look to each side."""
    return math.ceil(3 * max(sigma))


def filtered(white: Tensor, color: Color, sigma: tuple[float, float]) -> Tensor:
    """White noise (B, *(S + 2 * reach)) through a filter of two Gaussians, (B, *S) in fp64.

    With W the noise, and G1 W and G2 W the noise blurred by the smaller and the larger deviation, in tokens: red is G2 W,
    low frequencies; blue W - G1 W, high ones; green N = G1 W - G2 W, a band between; purple W - N / max |N|, without it.
    The noise goes beyond the grid, so that a border is like any other place and padding changes nothing.
    """
    white = white.to(torch.float64)
    far, (small, large) = reach(sigma), sorted(sigma)
    plain = white[(slice(None), *[slice(far, -far)] * (white.ndim - 1))]
    if color == "red":
        return _blurred(white, large, far)
    if color == "blue":
        return plain - _blurred(white, small, far)
    band = _blurred(white, small, far) - _blurred(white, large, far)
    return band if color == "green" else plain - band / _peak(small, large)


def _blurred(x: Tensor, sigma: float, far: int) -> Tensor:
    """x (B, *(S + 2 far)) blurred along every axis, (B, *S)."""
    kernel = torch.arange(-far, far + 1, device=x.device, dtype=x.dtype).square().mul(-0.5 / sigma**2).softmax(0)
    for axis in range(1, x.ndim):
        x = x.unfold(axis, len(kernel), 1) @ kernel
    return x


def _peak(small: float, large: float) -> float:
    """The largest gain of G1 - G2 over all frequencies, where exp(-s1^2 w^2 / 2) - exp(-s2^2 w^2 / 2) has no slope."""
    q = (large / small) ** 2
    return float(q ** (-1 / (q - 1)) - q ** (-q / (q - 1)))
