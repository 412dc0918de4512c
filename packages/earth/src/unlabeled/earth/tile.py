"""Tiled inference: a large grid in overlapping windows, blended so that no window's edge shows. NumPy only.

H x W cells, K values per cell. A window is read whole; of its output the outer `halo` cells, which know their surroundings
on one side only, are dropped but where the window ends with the grid. What is kept is weighted by Hann x Hann and divided by
the sum of the weights, row by row of windows, so that K x H x W values never lie in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]
FLOOR = 1e-6  # of a weight: where one window alone reaches, its edge counts too


class Span(NamedTuple):
    """Along one axis: cells start ... stop - 1 are read, first ... last - 1 of the output are kept."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def read(self) -> slice:
        return slice(self.start, self.stop)

    @property
    def kept(self) -> slice:
        return slice(self.first, self.last)

    @property
    def inner(self) -> slice:
        """The kept part, counted from the start of what is read."""
        return slice(self.first - self.start, self.last - self.start)


class Tile(NamedTuple):
    """One window of the grid."""

    y: Span
    x: Span


Outputs = Callable[[Sequence[Tile]], Iterable[tuple[Tile, Values]]]


def spans(length: int, size: int, step: int, halo: int = 0) -> list[Span]:
    """Windows of `size` cells every `step`, the last one ending with the axis; a shorter axis is one window.

    Raises ValueError where what is kept would leave gaps: step > size - 2 halo.
    """
    if not 0 < step <= size - 2 * halo or halo < 0:
        raise ValueError(f"windows of {size} cells with a halo of {halo} leave gaps at a step of {step}")
    size = min(size, length)
    return [
        Span(a, a + size, a + halo if a else 0, a + size - halo if a + size < length else length)
        for a in [*range(0, length - size, step), length - size]
    ]


def weights(tile: Tile) -> Values:
    """Of the kept cells of a tile: sin^2 (pi (i + 1/2) / n) along each axis, multiplied, + 1e-6."""
    y, x = (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2 for n in (s.last - s.first for s in tile))
    return np.asarray(np.multiply.outer(y, x) + FLOOR, np.float32)


def blended(
    shape: tuple[int, int], size: tuple[int, int], step: tuple[int, int], halo: int, k: int, outputs: Outputs
) -> Iterator[tuple[slice, Values]]:
    """(rows, values (K, rows, W)), from the top of the grid to its bottom.

    outputs  is given each row of windows and says (tile, values (K, *size)) in any order: they are added in the order of
             the grid, so that the same values give the same bytes. A tile may be left out; cells that no window reaches
             are 0.
    """
    down, across = (spans(*axis, halo) for axis in zip(shape, size, step, strict=True))
    height = max(row.last - row.first for row in down)
    total, weight = np.zeros((k, height, shape[1]), np.float32), np.zeros((height, shape[1]), np.float32)
    for number, row in enumerate(down):
        tiles = [Tile(row, column) for column in across]
        given = dict(outputs(tiles))
        for tile in tiles:
            if tile in given:
                w, n = weights(tile), row.last - row.first
                total[:, :n, tile.x.kept] += given[tile][:, tile.y.inner, tile.x.inner] * w
                weight[:n, tile.x.kept] += w
        end = down[number + 1].first if number + 1 < len(down) else shape[0]
        done = end - row.first  # rows that no later window reaches
        yield slice(row.first, end), total[:, :done] / np.maximum(weight[:done], FLOOR / 2)
        for buffer in (total, weight):
            buffer[..., : height - done, :] = buffer[..., done:, :].copy()
            buffer[..., height - done :, :] = 0
