"""Parts of an item in another order, within its own extent (Noroozi and Favaro 2016; Carlucci et al. 2019).

It stands alone because any method or view may put parts into another order, along any number of axes.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations as all_orders

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import rng
from unlabeled.core.tokens.extent import extent

ALL, SOME = 5040, 2000  # all orders of up to 7 parts are compared; of more parts, so many by lot


def far_orders(parts: int, count: int) -> NDArray[np.int64]:
    """(count, parts) orders that differ in many places, the natural one first; always the same ones.

    One by one the order is taken whose least Hamming distance to those before is largest, and of equal ones the one that
    is far from all of them (after Noroozi and Favaro 2016). Raises ValueError where there are fewer orders.
    """
    if count > math.factorial(parts):
        raise ValueError(f"{parts} parts have {math.factorial(parts)} orders, and not {count}")
    draw = rng(0, "jigsaw", parts)
    if math.factorial(parts) <= ALL:
        known = draw.permutation(np.array(list(all_orders(range(parts)))))
    else:
        known = np.unique(draw.permuted(np.tile(np.arange(parts), (max(SOME, 4 * count), 1)), axis=1), axis=0)
        known = draw.permutation(known)
    taken = [np.arange(parts)]
    least, total = np.full(len(known), parts), np.zeros(len(known), np.int64)
    for _ in range(count - 1):
        distance = (known != taken[-1]).sum(1)
        least, total = np.minimum(least, distance), total + distance
        taken.append(known[np.lexsort((-total, -least))[0]])
    return np.array(taken, np.int64)


def reordered(x: Dense, order: Tensor, n: int) -> tuple[Dense, Tensor]:
    """Each item in n parts along every axis, of which part p then holds what part order[:, p] held; (B,) bool, which were.

    order (B, n ** axes) int64; parts are numbered along the last axis first. They are equal boxes from the item's first
    cell on; the cells that are left over at the far ends stay. One that is shorter than n cells, or holds nothing, stays
    as it is.
    """
    box, grid = extent(x.valid), x.values.shape[2:]
    sizes = torch.stack([(last - first + 1) // n for first, last in box], 1)
    able = (sizes > 0).all(1) & x.valid.flatten(1).any(1)
    inside = able.view(-1, *[1] * len(grid))
    part: Tensor | int = 0
    offsets = []
    for axis, (first, _) in enumerate(box):
        shape = [len(order), *[-1 if a == axis else 1 for a in range(len(grid))]]
        at = torch.arange(grid[axis], device=order.device) - first[:, None]
        size = sizes[:, axis, None].clamp_min(1)
        inside = inside & ((at >= 0) & (at < n * size)).view(shape)
        part = part * n + (at // size).clamp(0, n - 1).view(shape)
        offsets.append((at % size).view(shape))
    assert isinstance(part, Tensor)
    source = order.gather(1, part.flatten(1)).view(part.shape)
    at, here = torch.zeros_like(source), torch.zeros_like(source)
    for axis in range(len(grid)):
        shape = [len(order), *[1] * len(grid)]
        corner = source // n ** (len(grid) - 1 - axis) % n * sizes[:, axis].view(shape) + box[axis][0].view(shape)
        own = torch.arange(grid[axis], device=order.device).view([-1 if a == axis else 1 for a in range(len(grid))])
        at, here = at * grid[axis] + corner + offsets[axis], here * grid[axis] + own
    at = torch.where(inside, at, here).flatten(1)[:, None]

    def moved(t: Tensor) -> Tensor:
        return t.flatten(2).take_along_dim(at, 2).reshape(t.shape)

    return replace(x, values=moved(x.values), valid=moved(x.valid)), able
