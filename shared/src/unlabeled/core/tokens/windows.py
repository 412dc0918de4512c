"""Windows of tokens that are seen alone, most of each hidden (Chen et al. 2022, LoMaR, section 3).

It stands alone because a mask is no matter of one method: any that encodes windows by themselves can draw these.

Every item has windows of its own, in tensors of (B, W, N). Sizes depend on the grid and the options only, so nothing waits
for the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unlabeled.core.contracts.batch import Moves
from unlabeled.core.tokens.extent import extent


@dataclass(frozen=True)
class Windows(Moves):
    """W windows of N tokens for each item, the tokens in raster order.

    tokens  (B, W, N) int64 token numbers
    valid   (B, W, N) bool; False throughout in the last windows of an item with fewer than W places for them
    hidden  (B, W, N) bool, some of the valid ones
    """

    tokens: Tensor
    valid: Tensor
    hidden: Tensor


def local_windows(
    valid: Tensor, grid: Sequence[int], size: int, count: int, ratio: float, places: Tensor, noise: Tensor
) -> Windows:
    """`count` different windows per item, and int(n * ratio) of the n valid tokens of each hidden, never all.

    valid   (B, L) bool, grid the tokens along each axis, L in all, in raster order
    size    tokens of a window along every axis, at most those of the grid
    places  (B, *(g - size + 1 for g in grid)) uniform: the windows with the lowest are taken
    noise   (B, count, size^d) uniform: the tokens with the lowest are hidden

    A window lies in the smallest box around the valid tokens; where that is smaller, it sticks out.
    """
    allowed = _allowed(valid.reshape(-1, *grid), size)
    order = places.masked_fill(~allowed, 2.0).flatten(1).argsort(dim=1, stable=True)
    slots = torch.arange(count, device=valid.device)
    start = order[:, slots.clamp_max(order.shape[1] - 1)]
    taken = slots < allowed.flatten(1).sum(1, keepdim=True)

    # raster numbers add up: a window's first token, and every token's distance from it
    number = torch.arange(math.prod(grid), device=valid.device).view(*grid)
    first = number[tuple(slice(n) for n in places.shape[1:])].flatten()
    within = number[tuple(slice(size) for _ in grid)].flatten()
    tokens = first[start][..., None] + within

    inside = valid.gather(1, tokens.flatten(1)).view(tokens.shape) & taken[..., None]
    n = inside.sum(-1, keepdim=True)
    hide = (n.to(torch.float64) * ratio).long().minimum(n - 1)
    rank = noise.masked_fill(~inside, 2.0).argsort(dim=-1, stable=True).argsort(dim=-1)
    return Windows(tokens, inside, rank < hide)


def _allowed(valid: Tensor, size: int) -> Tensor:
    """Where a window may begin: valid (B, *grid) -> (B, *places) bool, at least one place for each item."""
    out = torch.ones((), dtype=torch.bool, device=valid.device)
    d = valid.ndim - 1
    for axis, (first, last) in enumerate(extent(valid[:, None])):
        n = valid.shape[1 + axis] - size + 1
        first = first.clamp_max(n - 1)
        at = torch.arange(n, device=valid.device)
        ok = (at >= first[:, None]) & (at <= (last - size + 1).maximum(first)[:, None])
        out = out & ok.view(-1, *[n if a == axis else 1 for a in range(d)])
    return out
