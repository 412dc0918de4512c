"""Masks that hide whole lines of a grid: tubes through time, spans of time steps; and the running cells of a decoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor

from unlabeled.core.tokens.cubes import earliest
from unlabeled.core.tokens.masks import Mask, Rounding, keep_first, keep_lowest, kept


def tube_mask(valid: Tensor, ratio: float, noise: Tensor, grid: Sequence[int], rounding: Rounding = "keep") -> Mask:
    """One random mask of all axes but the first, the same at every place of the first (Tong et al. 2022, VideoMAE).

    valid (B, L) bool, noise (B, *grid[1:]) uniform. The ratio is one of tubes: those with a valid token count.
    """
    return _lines_mask(noise[:, None], valid, ratio, grid, rounding)


def span_mask(
    valid: Tensor,
    ratio: float,
    time: Tensor,
    side: Tensor,
    grid: Sequence[int],
    axis: int = 0,
    length: int = 10,
    rounding: Rounding = "keep",
) -> Mask:
    """Hides all tokens at some places of `axis`, in spans of `length` places that may overlap; the last one is cut.

    valid (B, L) bool, time (B, grid[axis] + length - 1) uniform, as `earliest` has it; side (B,) uniform: from which end
    the last span is cut. A span may stick out of the grid, so that every place is in one equally often. The ratio is one
    of places: those with a valid token count.
    """
    when = earliest(time, length, length).to(torch.float64)
    place = torch.arange(when.shape[1], device=when.device) / when.shape[1]
    # times are multiples of 2^-24
    when = when + 2**-25 * torch.where(side[:, None] < 0.5, place, -place)
    shape = [n if a == axis else 1 for a, n in enumerate(grid)]
    return _lines_mask(-when.reshape(-1, *shape), valid, ratio, grid, rounding)


def _lines_mask(score: Tensor, valid: Tensor, ratio: float, grid: Sequence[int], rounding: Rounding) -> Mask:
    """Keeps the lines with the lowest score (B, *S), S the grid with 1 for the axes that the lines run along."""
    there = valid.reshape(-1, *grid)
    alive = there
    for axis, n in enumerate(score.shape[1:], 1):
        if n == 1:
            alive = alive.any(axis, keepdim=True)
    chosen = keep_lowest(score.flatten(1), alive.flatten(1), ratio, rounding)
    hidden = torch.zeros_like(alive.flatten(1)).scatter(1, chosen.hide, chosen.hide_valid)
    hidden = hidden.reshape(alive.shape).expand_as(there).flatten(1)
    lines = math.prod(score.shape[1:])
    most = kept(lines, ratio, rounding) * (math.prod(grid) // lines)
    return keep_first(hidden.to(torch.float32), valid, (valid & ~hidden).sum(1, keepdim=True), most)


def running_cell(grid: Sequence[int], taken: int, phase: Tensor) -> Tensor:
    """(B, L) bool: the tokens that a decoder is to predict (Wang et al. 2023, VideoMAE V2, section 3.2).

    A cell is two tokens wide along every axis but the first, 2^(d - 1) in all; of these `taken` are, one after the other
    in raster order and around. From each place of the first axis to the next it moves by one. phase (B,) int64: where an
    item begins. Over 2^(d - 1) places of the first axis a token is taken `taken` times; an odd grid cuts cells.
    """
    at = [torch.arange(n, device=phase.device) for n in grid]
    step = at[0].view(-1, *[1] * (len(grid) - 1))
    for i, x in enumerate(at[1:], 1):
        step = step + ((x % 2) << (len(grid) - 1 - i)).view(*[-1 if a == i else 1 for a in range(len(grid))])
    return ((step.flatten() + phase[:, None]) % cell_size(len(grid))) < taken


def cell_size(axes: int) -> int:
    """Tokens of a cell on a grid of so many axes."""
    return 1 << (axes - 1)


def most_running(grid: Sequence[int], taken: int) -> tuple[int, int]:
    """The most tokens that `running_cell` takes in any phase: of the grid, and of one line along the first axis."""
    size = cell_size(len(grid))
    steps = [len(range(first, grid[0], size)) for first in range(size)]
    halves = [((n + 1) // 2, n // 2) for n in grid[1:]]
    places = [math.prod(h[i] for h, i in zip(halves, at, strict=True)) for at in product((0, 1), repeat=len(halves))]
    line = [sum(steps[t] for t in range(size) if (place + t) % size < taken) for place in range(size)]
    return max(sum(c * line[(p + q) % size] for p, c in enumerate(places)) for q in range(size)), max(line)
