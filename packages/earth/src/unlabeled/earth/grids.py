"""On which grid a scene is read: its own, turned north up, or the one the options ask for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from affine import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform

from unlabeled.core.contracts import BadInput
from unlabeled.earth.blocks import check_unit
from unlabeled.earth.handles import FAILURES, over, source_crs
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.scene import Place


def own(src: Any, name: str, options: ReaderOptions) -> tuple[Place, bool]:
    """The north-up grid of a file, and whether its cells lie on it as they are.

    South-up, rotated and files placed by control points are not. Raises BadInput for a file on no ground.
    """
    crs = source_crs(src)
    t = src.transform
    if crs is None or (t.is_identity and not src.gcps[0]):
        if options.allow_nogeo:
            return Place(None, Affine.identity(), src.height, src.width), True
        what = "no CRS" if crs is None else "no place on the ground"
        raise BadInput(
            f"{name}: it has {what}; write one into the file, or read it in pixels by options.allow_nogeo: true"
        )
    if src.crs is not None and t.a > 0 and t.e < 0 and t.b == t.d == 0:
        return Place(crs, t, src.height, src.width), True
    try:
        with WarpedVRT(src, src_crs=crs, crs=crs, add_alpha=ColorInterp.alpha not in src.colorinterp) as vrt:
            return Place(crs, vrt.transform, vrt.height, vrt.width), False
    except FAILURES as error:
        over()
        raise BadInput(f"{name}: it cannot be turned north up ({error}); write it again with gdalwarp") from None


def target(places: Sequence[Place], name: str, options: ReaderOptions) -> Place:
    """The grid of a scene whose files lie on `places`: that of the finest, or what the options ask for."""
    zones = Counter(p.crs.to_string() if p.crs else "no CRS" for p in places)
    if len(zones) > 1 and options.crs is None:
        counts = ", ".join(f"{zone} ({n})" for zone, n in zones.items())
        raise BadInput(f"{name}: its bands lie in several CRS, {counts}; set options.crs and options.resolution")
    finest = min(places, key=lambda p: math.prod(p.spacing))
    if options.crs is None and options.resolution is None:
        if finest.crs is None and any(not p.same(finest) for p in places):
            raise BadInput(f"{name}: its bands have several sizes and no CRS to bring them together; give them one")
        return finest
    if finest.crs is None:
        raise BadInput(
            f"{name}: without a CRS it cannot be brought to another grid; leave out options.crs and resolution"
        )
    crs = CRS.from_user_input(options.crs) if options.crs else finest.crs
    there = finest if crs == finest.crs else _moved(finest, crs, name)
    step = _step(finest, there, name, options)
    if crs == finest.crs and np.allclose(step, _native(finest), rtol=1e-6):
        return finest
    return _snapped(there, step)


def _moved(place: Place, crs: CRS, name: str) -> Place:
    try:
        t, width, height = calculate_default_transform(place.crs, crs, place.width, place.height, *place.bounds)
    except FAILURES as error:
        over()
        raise BadInput(f"{name}: it cannot be brought to options.crs ({error}); choose one that covers it") from None
    return Place(crs, t, height, width)


def _native(place: Place) -> tuple[float, float]:
    """(dy, dx) in units of the CRS."""
    return -place.transform.e, place.transform.a


def _step(finest: Place, there: Place, name: str, options: ReaderOptions) -> tuple[float, float]:
    """(dy, dx) of the wanted grid, in units of its CRS."""
    if options.resolution is not None:
        check_unit(there, options.resolution, "options.resolution", name)
        return options.resolution, options.resolution
    if finest.unit != there.unit:
        assert there.crs is not None
        raise BadInput(
            f"{name}: from {finest.unit} to {there.unit} its step cannot be kept; set options.resolution in units of "
            f"{there.crs.to_string()}"
        )
    dy, dx = finest.spacing
    return dy / there.metres, dx / there.metres


def _snapped(place: Place, step: tuple[float, float]) -> Place:
    """The grid of multiples of `step` that covers a place, so that all scenes share cells."""
    dy, dx = step
    west, south, east, north = place.bounds
    left, right = math.floor(west / dx + 1e-6), math.ceil(east / dx - 1e-6)
    low, high = math.floor(south / dy + 1e-6), math.ceil(north / dy - 1e-6)
    return Place(place.crs, Affine(dx, 0, left * dx, 0, -dy, high * dy), high - low, right - left)
