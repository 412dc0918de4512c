"""Augmentations of values that hold for any number of bands: (x, draw, spec, **options) -> x, per item, on the device.

No hue and no saturation: thirteen bands have neither. What is invalid stays invalid and 0, and enters no mean.
Shapes: B items, C bands, H rows, W columns. p: probability that an item is changed at all.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import Draw
from unlabeled.earth.physical import times
from unlabeled.earth.views import Range, rising, with_values


def _chosen(draw: Draw, p: float) -> Tensor:
    return (draw.uniform("chosen") < p)[:, None, None, None]


def _factor(draw: Draw, amount: float, view: str, channels: int = 1) -> Tensor:
    """(B, channels, 1, 1) uniform in 1 - amount to 1 + amount."""
    if not 0 <= amount < 1:
        raise RequestError(f"{view}.amount is {amount:g} and must lie in 0 to 1, without 1")
    return 1 + amount * (2 * draw.uniform("factor", channels, 1, 1) - 1)


def brightness(x: Dense, draw: Draw, spec: InputSpec, *, amount: float = 0.4, p: float = 0.8) -> Dense:
    """Another light: the physical values of all bands times one factor, uniform in 1 - amount to 1 + amount.

    Decibels get its decibels more. Raises RequestError where the normaliser has other constants for other sources.
    """
    log = torch.where(_chosen(draw, p), _factor(draw, amount, "brightness").log(), 0)
    return with_values(x, times(x.values, log, spec, "the view brightness"))


def scale_bands(x: Dense, draw: Draw, spec: InputSpec, *, amount: float = 0.1, p: float = 1.0) -> Dense:
    """Another calibration or haze: as `brightness`, with a factor for every band."""
    log = torch.where(_chosen(draw, p), _factor(draw, amount, "scale_bands", x.values.shape[1]).log(), 0)
    return with_values(x, times(x.values, log, spec, "the view scale_bands"))


def contrast(x: Dense, draw: Draw, spec: InputSpec, *, amount: float = 0.4, p: float = 0.8) -> Dense:
    """Distances to the band's own mean over the item, times one factor; the means stay (SSL4EO-S12, Wang et al. 2023)."""
    more = torch.where(_chosen(draw, p), _factor(draw, amount, "contrast") - 1, 0).to(x.values.dtype)
    valid = x.valid.expand_as(x.values)
    count = valid.sum((2, 3), keepdim=True).clamp_min(1)
    mean = torch.where(valid, x.values, 0).sum((2, 3), keepdim=True) / count
    return with_values(x, x.values + more * (x.values - mean))


def grey(x: Dense, draw: Draw, spec: InputSpec, *, p: float = 0.2) -> Dense:
    """The mean over all normalised bands in the place of each; valid where every band is (SSL4EO-S12, Wang et al. 2023)."""
    on = _chosen(draw, p)
    mean = x.values.mean(1, keepdim=True)
    return with_values(x, torch.where(on, mean, x.values), torch.where(on, x.valid.all(1, keepdim=True), x.valid))


def blur(x: Dense, draw: Draw, spec: InputSpec, *, sigma: Range = (0.1, 2.0), p: float = 0.5) -> Dense:
    """Gaussian blur with a sigma per item, uniform, in cells; a mean over valid cells only, to 3 sigma away.

    What lies beyond the item counts as invalid, so a constant stays constant up to its edge.
    """
    rising(sigma, "blur.sigma", 0, 100)
    wide = math.ceil(3 * sigma[1])
    width = (sigma[0] + (sigma[1] - sigma[0]) * draw.uniform("sigma")).clamp_min(1e-3)
    away = torch.arange(-wide, wide + 1, device=width.device)
    kernel = torch.exp(-0.5 * (away / width[:, None]).square()).to(x.values.dtype)
    weight = x.valid.to(x.values.dtype)
    values = _convolved(torch.where(x.valid, x.values, 0), kernel) / _convolved(weight, kernel).clamp_min(1e-6)
    return with_values(x, torch.where(_chosen(draw, p), values, x.values))


def _convolved(x: Tensor, kernel: Tensor) -> Tensor:
    """Every item (C, H, W) with its own odd kernel (B, K) along rows and columns, zeros around.

    A sum of products and no convolution: the same bits in any batch, and never in the autocast's half precision.
    """
    taps = kernel[..., None, None, None].unbind(1)
    wide = len(taps) // 2
    for axis, pad in ((2, (0, 0, wide, wide)), (3, (wide, wide, 0, 0))):
        padded, n = F.pad(x, pad), x.shape[axis]
        x = torch.zeros_like(x)
        for i, tap in enumerate(taps):
            x = x + tap * padded.narrow(axis, i, n)
    return x


def drop_bands(x: Dense, draw: Draw, spec: InputSpec, *, p: float = 0.1) -> Dense:
    """Every band is missing with probability p: invalid as a whole. One, drawn at random, always stays."""
    u = draw.uniform("band", x.values.shape[1], 1, 1)
    kept = (u >= p) | (u == u.amax(1, keepdim=True))
    return replace(with_values(x, x.values, x.valid & kept), whole=False)
