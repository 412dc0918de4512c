"""The blocks of I-JEPA (Assran et al. 2023, section 3): some to predict, and one to predict them from.

Sizes of tensors depend on L and the options only, so nothing waits for the device. Two things differ from the authors'
code on purpose: it draws a block's scale and aspect from one number, and never puts a block on the last row or column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unlabeled.core.contracts.batch import Moves

Range = tuple[float, float]


@dataclass(frozen=True)
class Blocks(Moves):
    """context (B, K) and targets (B, T, S) int64 token numbers; the `*_valid` are bool, False for fillers."""

    context: Tensor
    context_valid: Tensor
    targets: Tensor
    targets_valid: Tensor


def multi_block(
    valid: Tensor,
    position: Tensor,
    boxes: Tensor,
    noise: Tensor,
    scale: Range = (0.15, 0.2),
    aspect: Range = (0.75, 1.5),
    context_scale: Range = (0.85, 1.0),
    context_share: float = 0.5,
) -> Blocks:
    """T target blocks, and a context block without their tokens.

    valid     (B, L) bool; invalid tokens are in no block
    position  (B, L, d) of the tokens, which lie on a grid or anywhere
    boxes     (B, T + 1, 2d) uniform: size and place of each block, the context's last
    noise     (B, L) uniform: which tokens stay where there are more than places
    scale     share of the grid that a target covers; aspect: its length over its length along the last axis, in tokens
    context_share  most tokens of a context, as a share of the valid ones; a larger context is thinned at random (with
                   the defaults every third on a grid of 14 x 14, where their mean share is 0.46)

    A row whose context is empty has no targets either, since nothing could tell what is in them.
    """
    cell, extent = cells(position, valid)
    inside = valid[:, None] & torch.cat(
        [
            _in_boxes(cell, extent, boxes[:, :-1], scale, aspect),
            _in_boxes(cell, extent, boxes[:, -1:], context_scale, (1.0, 1.0)),
        ],
        1,
    )
    target, context = inside[:, :-1], inside[:, -1] & ~inside[:, :-1].any(1)
    target = target & context.any(1)[:, None, None]
    return Blocks(
        *_chosen(context, noise, valid.sum(1)[:, None], context_share),
        *_chosen(target, noise[:, None], valid.sum(1)[:, None, None], scale[1]),
    )


def cells(position: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Place of every token among those of its row along each axis (B, L, d), and how many places there are (B, d).

    Equal coordinates are one place. On a grid this is the row, the column and so on, whatever its spacing.
    """
    places = []
    for x in position.unbind(-1):
        ordered, order = x.masked_fill(~valid, torch.inf).sort(1)
        is_new = torch.cat([torch.zeros_like(valid[:, :1]), ordered[:, 1:] != ordered[:, :-1]], 1)
        places.append(torch.zeros_like(order).scatter(1, order, is_new.cumsum(1)))
    place = torch.stack(places, -1)
    return place, torch.where(valid[..., None], place + 1, 0).amax(1)


def _in_boxes(cell: Tensor, extent: Tensor, boxes: Tensor, scale: Range, aspect: Range) -> Tensor:
    """(B, n, L) whether a token is in a box; boxes (B, n, 2d) uniform."""
    d = extent.shape[1]
    boxes = boxes.to(torch.float64)
    extent = extent[:, None].to(torch.float64)
    size = _sizes(extent, boxes[..., :d], scale, aspect)
    free = (extent - size).clamp_min(0)
    low = (boxes[..., d:] * (free + 1)).floor().minimum(free)
    inside = torch.ones((), dtype=torch.bool, device=cell.device)
    for i in range(d):
        at = cell[:, None, :, i]
        inside = inside & (at >= low[..., i, None]) & (at < (low + size)[..., i, None])
    return inside


def _sizes(extent: Tensor, draws: Tensor, scale: Range, aspect: Range) -> Tensor:
    """Tokens along each axis of boxes (B, n, d): extent (B, 1, d), draws (B, n, d) uniform."""
    d = extent.shape[-1]
    cells = extent.prod(-1)
    volume = cells * (scale[0] + (scale[1] - scale[0]) * draws[..., 0])
    most = (cells * scale[1]).expand_as(volume)
    ratios = [aspect[0] + (aspect[1] - aspect[0]) * draws[..., i] for i in range(1, d)] + [torch.ones_like(volume)]
    return box_sizes(extent, volume, most, ratios)


def box_sizes(extent: Tensor, volume: Tensor, most: Tensor, ratios: Sequence[Tensor]) -> Tensor:
    """Tokens along each axis of boxes (B, n, d), in fp64 all.

    extent (B, 1, d), volume (B, n) wanted, most (B, n) the most allowed, ratios d times (B, n): the length along an axis
    over the last one's. Axis after axis gets its share of the volume that is left, and no less than the axes after it
    cannot take; at least 1.
    """
    d = extent.shape[-1]
    sizes = []
    for i in range(d):
        product = torch.stack([*ratios[i:]]).prod(0)
        wanted = (volume * ratios[i] ** (d - i) / product) ** (1 / (d - i))
        least = (volume / extent[..., i + 1 :].prod(-1).clamp_min(1)).floor()
        size = wanted.round().maximum(least).minimum(extent[..., i]).minimum(most.floor()).clamp_min(1)
        volume, most = volume / size, most / size
        sizes.append(size)
    return torch.stack(sizes, -1)


def _chosen(inside: Tensor, noise: Tensor, count: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Numbers of the tokens in (..., L), at most a share of a row's `count` valid ones, and whether a place is taken."""
    places = max(1, int(inside.shape[-1] * share))
    most = (count.to(torch.float64) * share).long().clamp_min(1).minimum(inside.sum(-1, keepdim=True))
    order = noise.expand(inside.shape).masked_fill(~inside, 2.0).argsort(dim=-1, stable=True)[..., :places]
    return order, torch.arange(places, device=inside.device) < most
