"""Masks of many boxes: the rectangles of BEiT (Bao et al. 2022, algorithm 1), and small ones (Atito et al. 2021, GMML).

A fixed number of boxes is drawn for each row, and a token is hidden in the order of the first box that has it. So the
count is exact, in one pass: the last box shrinks around its middle, and the boxes after it are not used. Two things differ
from the authors' codes on purpose: theirs stop below the count or beyond it, and never or seldom put a box over the border.
Here a box may stick out of the grid, so that every token is in one equally often.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unlabeled.core.tokens.blocks import box_sizes, cells
from unlabeled.core.tokens.masks import Mask, Rounding, keep_lowest, kept_each

BOXES = 64  # of `boxes_mask`; few rows need more than a third of them
AT_ONCE = 256  # boxes looked at together


def boxes_mask(
    valid: Tensor,
    ratio: float,
    position: Tensor,
    boxes: Tensor,
    noise: Tensor,
    least: int = 16,
    aspect: float = 0.3,
    rounding: Rounding = "keep",
) -> Mask:
    """Hides boxes of `least` tokens to as many as are to be hidden, uniformly, until the count is met.

    valid (B, L) bool, position (B, L, d), boxes (B, n, 2d) uniform (size and place), noise (B, L) uniform. A box's length
    along an axis over its length along the last is between `aspect` and 1 / aspect, log-uniform, where the grid allows.
    """
    d = position.shape[-1]
    place, extent = cells(position, valid)
    n = valid.sum(1, keepdim=True)
    most = (n - kept_each(n, ratio, rounding)).to(torch.float64)
    draws = boxes[..., :d].to(torch.float64)
    fewest = most.clamp_max(least)
    volume = fewest + (most - fewest) * draws[..., 0]
    ratios = [(math.log(aspect) * (1 - 2 * draws[..., i])).exp() for i in range(1, d)] + [torch.ones_like(volume)]
    wide = extent[:, None].to(torch.float64)
    size = box_sizes(wide, volume, most.clamp_min(1).expand_as(volume), ratios)
    return keep_lowest(-_order(place, wide, size, boxes[..., d:], noise), valid, ratio, rounding)


def group_mask(
    valid: Tensor,
    ratio: float,
    position: Tensor,
    boxes: Tensor,
    noise: Tensor,
    size: float = 0.3,
    rounding: Rounding = "keep",
) -> Mask:
    """Hides boxes of 1 to `size` * extent tokens along each axis, uniformly, until the count is met; as `boxes_mask`."""
    d = position.shape[-1]
    place, extent = cells(position, valid)
    wide = extent[:, None].to(torch.float64)
    sizes = 1 + (boxes[..., :d].to(torch.float64) * (size * wide).round().clamp_min(1)).floor()
    return keep_lowest(-_order(place, wide, sizes, boxes[..., d:], noise), valid, ratio, rounding)


def group_boxes(ratio: float, size: float, axes: int) -> int:
    """How many boxes of `group_mask` are enough for nearly every row, on a grid of any size.

    On a wide grid a box with sides u * extent, u uniform to `size`, has a token with the chance E[u / (1 + u)] along each
    axis; on a small grid more often. -ln(1 - ratio) boxes over that chance cover the ratio on average.
    """
    chance = (1 - math.log1p(size) / size) ** axes
    return math.ceil(8 - 1.25 * math.log(1 - ratio) / chance)


def _order(place: Tensor, extent: Tensor, size: Tensor, draws: Tensor, noise: Tensor) -> Tensor:
    """(B, L) when a token is hidden: number of the first box with it, and how far from its middle; the others at last.

    place (B, L, d), extent (B, 1, d), size (B, n, d), draws (B, n, d) and noise (B, L) uniform.
    """
    low = (draws.to(torch.float64) * (extent + size - 1)).floor() - (size - 1)
    count = size.shape[1]
    first = torch.full_like(place[..., 0], count)
    for start in range(0, count, AT_ONCE):
        part = slice(start, start + AT_ONCE)
        inside = torch.ones((), dtype=torch.bool, device=place.device)
        for i in range(place.shape[-1]):
            at, end = place[:, None, :, i], (low + size)[:, part, i, None]
            inside = inside & (at >= low[:, part, i, None]) & (at < end)
        found = torch.where(inside.any(1), start + inside.to(torch.uint8).argmax(1), count)
        first = first.minimum(found)
    box = first.clamp_max(count - 1)[..., None]
    middle = (low + 0.5 * (size - 1)).take_along_dim(box, 1)
    # below 0.5: the shells of a box, and within one of them the order of the noise
    away = ((place - middle).abs() / size.take_along_dim(box, 1)).amax(-1) + 1e-6 * noise
    return torch.where(first < count, first + away, count + noise.to(torch.float64))
