"""Augmentations that are true for a scene seen from above: (x, draw, spec, **options) -> x, per item, on the device.

Here are those of the ground (where a cell comes from); `photometry` has those of the values, `speckle` radar's own. Every
draw is keyed by item and placed by the item's extent, the smallest box around what is valid, so a view depends neither on
the rest of the batch nor on padding. What is invalid stays invalid and 0, and is read by nothing.
Shapes: B items, C bands, H rows, W columns; sizes are in cells.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import Draw
from unlabeled.core.tokens.extent import extent, take

Size = tuple[int, int]
Range = tuple[float, float]


def with_values(x: Dense, values: Tensor, valid: Tensor | None = None) -> Dense:
    valid = x.valid if valid is None else valid
    return replace(x, values=torch.where(valid, values, 0), valid=valid)


def rising(pair: Range, name: str, low: float, high: float) -> None:
    """Raises RequestError where the pair is no range within low to high."""
    if not low <= pair[0] <= pair[1] <= high or pair[1] <= 0:
        raise RequestError(f"{name} is {list(pair)}; give two numbers from {low:g} to {high:g}, the smaller one first")


def crop(x: Dense, draw: Draw, spec: InputSpec, *, size: Size) -> Dense:
    """A random piece of `size` cells, as it is: (B, C, H, W) -> (B, C, *size). No cell is resampled, no scale changed."""
    shape = x.values.shape[2:]
    if min(size) < 1 or any(n > have for n, have in zip(size, shape, strict=True)):
        raise RequestError(
            f"crop.size is {_by(size)} cells and the items have {_by(shape)}; make it smaller, or data.window larger"
        )
    values, valid, u = x.values, x.valid, draw.uniform("place", 2)
    for axis, ((first, last), n) in enumerate(zip(extent(x.valid), size, strict=True), 2):
        free = (last - first + 1 - n).clamp_min(0)
        start = first + (u[:, axis - 2] * (free + 1)).long().minimum(free)
        # an item smaller than the crop lies in it with a margin that is invalid
        start = start.clamp_max(shape[axis - 2] - n)
        index = start[:, None] + torch.arange(n, device=start.device)
        values, valid = take(values, axis, index), take(valid, axis, index)
    return with_values(x, values, valid)


def resized_crop(
    x: Dense, draw: Draw, spec: InputSpec, *, size: Size, scale: Range = (0.2, 1.0), ratio: Range = (0.75, 4 / 3)
) -> Dense:
    """A random piece brought to `size` cells by bilinear interpolation: (B, C, H, W) -> (B, C, *size).

    scale  share of the item's area, uniform. ratio: width over height, uniform in its logarithm (Szegedy et al. 2015); a
           piece that would stick out of the item is made as long as the item, at the same area
    A cell is valid where all cells it is made of are. The spacing stays as it was: the encoder shall know a field on larger
    ground as the same. Where the piece has more than twice the cells of `size` along an axis, cells between are not read.
    """
    rising(scale, "resized_crop.scale", 0, 1)
    rising(ratio, "resized_crop.ratio", 0.01, 100)
    if min(size) < 1:
        raise RequestError(f"resized_crop.size is {_by(size)} cells; give two numbers above 0")
    u = draw.uniform("piece", 4).to(torch.float64).unbind(1)
    ends = extent(x.valid)
    high, wide = ((last - first + 1).to(torch.float64) for first, last in ends)
    area = high * wide * (scale[0] + (scale[1] - scale[0]) * u[0])
    shape = ratio[0] * (ratio[1] / ratio[0]) ** u[1]
    shape = shape.maximum(area / high**2).minimum(wide**2 / area)
    lengths = (area / shape).sqrt().minimum(high), (area * shape).sqrt().minimum(wide)

    values, valid = x.values, x.valid
    for axis, ((first, last), length, n) in enumerate(zip(ends, lengths, size, strict=True), 2):
        start = first + u[axis] * (last - first + 1 - length)
        middles = (torch.arange(n, device=start.device, dtype=start.dtype) + 0.5) / n
        at = start[:, None] + length[:, None] * middles - 0.5
        at = at.maximum(first[:, None]).minimum(last[:, None])
        low = at.floor()
        part = (at - low).to(values.dtype)[:, None].unsqueeze(5 - axis)
        # a place on a cell needs that cell alone
        low, up = low.long(), at.ceil().long()
        values = torch.lerp(take(values, axis, low), take(values, axis, up), part)
        valid = take(valid, axis, low) & take(valid, axis, up)
    return with_values(x, values, valid)


def flip(
    x: Dense, draw: Draw, spec: InputSpec, *, axes: tuple[Literal["y", "x"], ...] = ("y", "x"), p: float = 0.5
) -> Dense:
    """Mirrored along each of `axes`, each with probability p.

    Leave out the axis of the look direction for radar over relief: shadows and layover have a side.
    """
    u = draw.uniform("flip", 2)
    return _mirrored(x, [(u[:, i] < p) & (name in axes) for i, name in enumerate(("y", "x"))])


def rotate90(x: Dense, draw: Draw, spec: InputSpec) -> Dense:
    """Turned by 0, 90, 180 or 270 degrees, equally often; with `flip`, every symmetry of the square (D4).

    Raises RequestError where items are not square.
    """
    high, wide = x.values.shape[2:]
    if high != wide:
        raise RequestError(
            f"the view rotate90 needs square items, these have {high} x {wide} cells; crop them, or leave it out"
        )
    quarters = (4 * draw.uniform("quarters")).long()
    x = _mirrored(x, [quarters >= 2, (quarters == 1) | (quarters == 2)])
    odd = quarters % 2 == 1

    def turned(a: Tensor) -> Tensor:
        return torch.where(odd[:, None, None, None], a.transpose(2, 3), a)

    spacing = torch.where(odd[:, None], x.spacing.flip(1), x.spacing)
    return replace(x, values=turned(x.values), valid=turned(x.valid), spacing=spacing)


def _mirrored(x: Dense, which: list[Tensor]) -> Dense:
    """Rows and columns of each item's extent in reverse order where `which` (B,), by axis, says so."""
    values, valid = x.values, x.valid
    for axis, ((first, last), on) in enumerate(zip(extent(x.valid), which, strict=True), 2):
        at = torch.arange(values.shape[axis], device=first.device).expand(len(first), -1)
        inside = (at >= first[:, None]) & (at <= last[:, None])
        index = torch.where(on[:, None] & inside, (first + last)[:, None] - at, at)
        values, valid = take(values, axis, index), take(valid, axis, index)
    return with_values(x, values, valid)


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in size)
