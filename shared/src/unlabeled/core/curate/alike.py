"""Whether two thumbnails show the same: laid over each other, then compared in brightness and in detail."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter, uniform_filter

Floats = NDArray[np.float32]

CHUNK = 512  # pairs at once
ROUNDS = 5  # of the fit
FAR = 20.0  # grey levels: pairs that differ more where they begin are not fitted
DETAIL = {1: 65, 2: 9, 3: 5}  # cells along each axis, by rank: what varies over more is no detail
BLOCK = {1: 64, 2: 8, 3: 4}  # 64 cells in every rank


@dataclass(frozen=True)
class Likeness:
    """(P,) each, over the cells of both that lie upon each other, after means over 3 cells along each axis.

    overlap   their share
    level     mean absolute difference, grey levels
    worst     the largest mean absolute difference in one of 64 blocks
    detail    correlation of what remains when the mean around each cell (`DETAIL`) is taken off
    contrast  standard deviation of that, grey levels, the smaller of the two
    """

    overlap: Floats
    level: Floats
    worst: Floats
    detail: Floats
    contrast: Floats


def likeness(a: NDArray[np.uint8], b: NDArray[np.uint8], begin: Floats, size: Floats) -> Likeness:
    """Of pairs of thumbnails (P, *S).

    Pictures: b is taken for the part of a that begins at `begin` (P, 2) and has `size` (P, 2), in shares of a's sides; both are
    then fitted by Gauss-Newton on the squared difference (Lucas and Kanade 1981: here scale and shift along each axis).
    Of other ranks cell is compared with cell.
    """
    parts = []
    for at in range(0, len(a), CHUNK):
        some = slice(at, at + CHUNK)
        soft_a, soft_b = (uniform_filter(x[some].astype(np.float32), (0, *[3] * (a.ndim - 1))) for x in (a, b))
        if a.ndim == 3:
            over, inside = _laid(soft_a, soft_b, begin[some], size[some])
        else:
            over, inside = soft_a, np.ones_like(soft_a)
        parts.append(astuple(_compared(over, soft_b, inside)))
    return Likeness(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _compared(a: Floats, b: Floats, inside: Floats) -> Likeness:
    rank = a.ndim - 1
    axes = tuple(range(1, a.ndim))
    there = np.maximum(inside.sum(axes), 1)
    gap = np.abs(a - b) * inside
    blocks = (len(a), *(n for side in a.shape[1:] for n in (side // BLOCK[rank], BLOCK[rank])))
    within = tuple(range(2, 2 * rank + 1, 2))
    # of a block that hardly overlaps, a few cells say little: they count as a half
    worst = gap.reshape(blocks).sum(within) / np.maximum(inside.reshape(blocks).sum(within), 32)
    around = (0, *[DETAIL[rank]] * rank)
    inner = minimum_filter(inside, around, mode="constant")  # where the mean around is one of cells that are there
    fine_a, fine_b = ((x - uniform_filter(x, around)) * inner for x in (a, b))
    many = np.maximum(inner.sum(axes), 1)
    spread_a, spread_b = (np.sqrt((x**2).sum(axes) / many) for x in (fine_a, fine_b))
    shared = (fine_a * fine_b).sum(axes) / many
    return Likeness(
        overlap=there / a[0].size,
        level=gap.sum(axes) / there,
        worst=worst.reshape(len(a), -1).max(1),
        detail=shared / np.maximum(spread_a * spread_b, 1e-6),
        contrast=np.minimum(spread_a, spread_b),
    )


def _laid(a: Floats, b: Floats, begin: Floats, size: Floats) -> tuple[Floats, Floats]:
    """a (P, n, n) where b has its cells, and 1 where that lies inside of a, else 0."""
    n = a.shape[-1]
    centres = ((np.arange(n) + 0.5) / n).astype(np.float32)
    slopes = np.gradient(a, axis=(1, 2))
    least = np.full(len(a), np.inf, np.float32)
    best = begin, size
    start = (begin[:, :, None] + size[:, :, None] * centres) * n - 0.5
    over, inside = _sampled(a, start), _inside(start, n)
    near = (np.abs(over - b) * inside).sum((1, 2)) <= FAR * inside.sum((1, 2))
    if not near.all():
        if near.any():
            over[near], inside[near] = _laid(a[near], b[near], begin[near], size[near])
        return over, inside
    for _ in range(ROUNDS):
        at = (begin[:, :, None] + size[:, :, None] * centres) * n - 0.5  # (P, 2, n) in cells of a
        inside = _inside(at, n)
        gap = (b - _sampled(a, at)) * inside
        error = (gap**2).sum((1, 2)) / np.maximum(inside.sum((1, 2)), 1)
        better = error < least
        least = np.where(better, error, least)
        best = np.where(better[:, None], begin, best[0]), np.where(better[:, None], size, best[1])
        dy, dx = (_sampled(slope, at) * inside * n for slope in slopes)
        j = np.stack([dy, dy * centres[:, None], dx, dx * centres], 1).reshape(len(a), 4, -1)
        normal = j @ j.transpose(0, 2, 1)
        normal += np.eye(4, dtype=np.float32) * (1e-3 * np.trace(normal, axis1=1, axis2=2)[:, None, None] + 1e-3)
        step = np.linalg.solve(normal, j @ gap.reshape(len(a), -1, 1))[..., 0]
        begin = np.clip(begin + step[:, 0::2], -0.15, 0.15)  # further off, it is no copy with a border cut away
        size = np.clip(size + step[:, 1::2], 0.85, 1.15)
    at = (best[0][:, :, None] + best[1][:, :, None] * centres) * n - 0.5
    return _sampled(a, at), _inside(at, n)


def _inside(at: Floats, n: int) -> Floats:
    ok = ((at > -0.5) & (at < n - 0.5)).astype(np.float32)
    return ok[:, 0, :, None] * ok[:, 1, None, :]


def _sampled(x: Floats, at: Floats) -> Floats:
    """x (P, n, n) at the crossings of at[:, 0] and at[:, 1] (P, n) cells, bilinear."""
    n = x.shape[-1]
    low = np.clip(np.floor(at), 0, n - 2).astype(np.intp)
    part = np.clip(at - low, 0, 1).astype(np.float32)
    rows = np.arange(len(x))[:, None]
    up = x[rows, low[:, 0]] * (1 - part[:, 0, :, None]) + x[rows, low[:, 0] + 1] * part[:, 0, :, None]
    up = np.swapaxes(up, 1, 2)
    side = up[rows, low[:, 1]] * (1 - part[:, 1, :, None]) + up[rows, low[:, 1] + 1] * part[:, 1, :, None]
    return np.swapaxes(side, 1, 2)
