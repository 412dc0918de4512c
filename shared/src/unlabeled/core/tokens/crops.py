"""Boxes inside an item, and what is in them drawn on the item's own grid: random resized crops (Szegedy et al. 2015).

It stands alone because any method that makes its views itself, and any recipe's view, may take it beside CropMAE.

A box is (low, size), each (B, d): where it begins and how long it is along each axis, as shares of the item's extent
(see `extent`), so that padding moves no box.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.tokens.extent import extent, take

Range = tuple[float, float]
Box = tuple[Tensor, Tensor]


def draw_box(draws: Tensor, scale: Range, aspect: Range) -> Box:
    """A box per item, from draws (B, 2d) uniform in [0, 1).

    scale   share of the item's volume that it holds, uniform and exact
    aspect  its length over its length along the last axis, in shares of the item; log-uniform where it fits

    An axis gets its part of the volume that is left, at most the whole axis, and at least what the axes after it, taken
    whole, would leave over.
    """
    draws = draws.to(torch.float64)
    d = draws.shape[1] // 2
    volume = scale[0] + (scale[1] - scale[0]) * draws[:, 0]
    ratios = [aspect[0] * (aspect[1] / aspect[0]) ** draws[:, i] for i in range(1, d)] + [torch.ones_like(volume)]
    sizes = []
    for i in range(d):
        product = torch.stack(ratios[i:]).prod(0)
        size = (volume * ratios[i] ** (d - i) / product) ** (1 / (d - i))
        size = size.maximum(volume).clamp_max(1)
        sizes.append(size)
        volume = volume / size
    size = torch.stack(sizes, 1)
    return draws[:, d:] * (1 - size), size


def inside(outer: Box, inner: Box) -> Box:
    """The box `inner`, given in shares of `outer`, in shares of the item."""
    return outer[0] + inner[0] * outer[1], inner[1] * outer[1]


def crop(x: Dense, box: Box) -> Dense:
    """What is in the box, linearly interpolated on the item's own extent, the rest of the grid invalid.

    A cell of the result reads the two cells around its middle along each axis, at the border of the extent the last one
    alone. It is valid where all the cells that it reads are. The spacing stays what it was, as for any zoom.
    """
    low, size = box
    values, valid = torch.where(x.valid, x.values, 0), x.valid
    for axis, (first, last) in enumerate(extent(x.valid), 2):
        first, last = first[:, None], last[:, None]
        at = torch.arange(values.shape[axis], device=values.device)
        length = (last - first + 1).to(low.dtype)
        i = axis - 2
        place = low[:, i, None] * length + (at - first + 0.5) * size[:, i, None] - 0.5
        place = place.clamp_min(0).minimum(length - 1)
        near = place.floor()
        share = _along(axis, (place - near).to(values.dtype), values)
        near = first + near.long()
        far = (near + 1).minimum(last)
        values = torch.lerp(take(values, axis, near), take(values, axis, far), share)
        there = _along(axis, (at >= first) & (at <= last), valid)
        valid = there & take(valid, axis, near) & (take(valid, axis, far) | (share == 0))
    return replace(x, values=torch.where(valid, values, 0), valid=valid)


def _along(axis: int, x: Tensor, like: Tensor) -> Tensor:
    """(B, n) with its second axis where `axis` is in `like`."""
    return x.view(len(x), *[-1 if a == axis else 1 for a in range(1, like.ndim)])
