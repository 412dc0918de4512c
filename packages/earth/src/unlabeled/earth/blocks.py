"""Blocks: scenes cut along a grid that is fixed in their CRS, so that scenes of the same ground share blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from unlabeled.core.contracts import BadInput
from unlabeled.earth.options import BLOCKS
from unlabeled.earth.scene import Place


@dataclass(frozen=True)
class Block:
    """Cells `rows`, `cols` of a scene. x, y: which block of the grid they lie in; counted from the CRS's origin."""

    rows: slice
    cols: slice
    x: int
    y: int


def side(place: Place, given: float | None, name: str = "scene") -> float:
    """Side of a block in units of the place's CRS. Raises BadInput for metres in a geographic CRS and the reverse."""
    block = given if given is not None else BLOCKS[place.unit]
    check_unit(place, block, "options.block", name, most=10)
    return block / place.metres


def check_unit(place: Place, value: float, what: str, name: str, most: float = 1) -> None:
    """Raises BadInput where `value` cannot be a length in the place's unit."""
    crs = place.crs.to_string() if place.crs else ""
    if place.unit == "deg" and value > most:
        raise BadInput(
            f"{name}: {what} {value:g} looks like metres, but {crs} is in degrees; give degrees (10 m are about 0.0001), or a "
            "projected options.crs"
        )
    if place.unit == "m" and value < 0.01:
        raise BadInput(
            f"{name}: {what} {value:g} looks like degrees, but {crs} is in metres; give metres, or a geographic options.crs"
        )


def centre(place: Place, side: float) -> tuple[int, int]:
    """(x, y) of the block in which the centre of a place lies."""
    west, south, east, north = place.bounds
    return math.floor((west + east) / 2 / side), math.floor((south + north) / 2 / side)


def blocks(place: Place, side: float) -> list[Block]:
    """The blocks of a scene, from north to south and west to east; one alone where it is at most two blocks high and wide.

    A cell belongs to the block in which its centre lies, so blocks divide a scene without gap or overlap.
    """
    t = place.transform
    high, wide = abs(t.e) * place.height, abs(t.a) * place.width
    if high <= 2 * side * (1 + 1e-9) and wide <= 2 * side * (1 + 1e-9):
        return [Block(slice(0, place.height), slice(0, place.width), *centre(place, side))]
    cols = _runs(t.c, t.a, place.width, side)
    rows = _runs(t.f, t.e, place.height, side)
    return [Block(r, c, x, y) for y, r in rows for x, c in cols]


def _runs(origin: float, step: float, n: int, side: float) -> list[tuple[int, slice]]:
    """(block, cells) along one axis. A centre less than a thousandth of a cell below a border counts as on it."""
    at = np.floor((origin + step * (np.arange(n) + 0.5)) / side + 1e-3 * abs(step) / side).astype(int)
    starts = np.flatnonzero(np.diff(at, prepend=at[0] - 1))
    return [(int(at[a]), slice(int(a), int(b))) for a, b in zip(starts, [*starts[1:], n], strict=True)]
