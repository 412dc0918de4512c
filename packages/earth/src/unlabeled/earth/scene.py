"""Scene: one image, of one file or one file per band, on one grid, read window by window."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.transform import array_bounds
from rasterio.windows import Window

from unlabeled.core.contracts import BadInput, Input
from unlabeled.earth import handles


@dataclass(frozen=True)
class Place:
    """A north-up grid on the ground; crs None: on no ground, in pixels."""

    crs: CRS | None
    transform: Affine
    height: int
    width: int

    @property
    def unit(self) -> str:
        return "px" if self.crs is None else "deg" if self.crs.is_geographic else "m"

    @property
    def metres(self) -> float:
        """Metres in one unit of a projected CRS; 1 for the others."""
        return float(self.crs.linear_units_factor[1]) if self.crs is not None and self.crs.is_projected else 1.0

    @property
    def spacing(self) -> tuple[float, float]:
        """(dy, dx) in `unit`, positive."""
        if self.crs is None:
            return 1.0, 1.0
        return abs(self.transform.e) * self.metres, abs(self.transform.a) * self.metres

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) in units of the CRS."""
        west, south, east, north = array_bounds(self.height, self.width, self.transform)
        return float(west), float(south), float(east), float(north)

    def cut(self, rows: slice, cols: slice) -> Place:
        """The part of this grid in `rows` and `cols`, which end at its edge."""
        (top, bottom, _), (left, right, _) = rows.indices(self.height), cols.indices(self.width)
        t = self.transform
        at = Affine(t.a, t.b, t.c + t.a * left, t.d, t.e, t.f + t.e * top)
        return Place(self.crs, at, max(0, bottom - top), max(0, right - left))

    def same(self, other: Place) -> bool:
        """The same cells, to a thousandth of one."""
        off = max(abs(a - b) for a, b in zip(self.bounds, other.bounds, strict=True))
        alike = (self.crs, self.height, self.width) == (other.crs, other.height, other.width)
        return alike and off <= 1e-3 * abs(self.transform.a)


@dataclass(frozen=True)
class Layer:
    """One band of a scene: where it lies and what its numbers mean (value = number * scale + offset).

    nodata  numbers that are no values. masked: the file has a mask or an alpha band. same: the file is on the scene's grid.
    """

    channel: str
    path: Path
    name: str
    index: int
    dtype: str
    unit: str
    scale: float | None = None
    offset: float = 0.0
    nodata: tuple[float, ...] = ()
    masked: bool = False
    same: bool = True


@dataclass(frozen=True)
class Scene:
    """One image under the reader's options. Holds no open file, so it can be sent to another process."""

    place: Place
    layers: tuple[Layer, ...]
    source: str
    resampling: str = "bilinear"
    flags: tuple[str, ...] = ()

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(layer.channel for layer in self.layers)

    @property
    def units(self) -> tuple[str, ...]:
        return tuple(layer.unit for layer in self.layers)

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8 or int16 where the file has them and nothing is scaled, else float32."""
        kinds = {layer.dtype for layer in self.layers}
        small = self.numbers_are_values and len(kinds) == 1 and kinds <= {"uint8", "int16"}
        return np.dtype(kinds.pop() if small else np.float32)

    @property
    def numbers_are_values(self) -> bool:
        """Nothing is scaled."""
        return all(layer.scale is None for layer in self.layers)

    def read(self, rows: slice, cols: slice) -> Input:
        """(C, H, W) in `units`, what lies beyond the edge left out; invalid cells are 0.

        A cell is valid where every band has a finite value there. Raises BadInput where the file cannot be read.
        """
        place = self.place.cut(rows, cols)
        top, left = rows.indices(self.place.height)[0], cols.indices(self.place.width)[0]
        window = Window(left, top, place.width, place.height)
        data = np.zeros((len(self.layers), place.height, place.width), self.dtype)
        valid = np.ones((1, place.height, place.width), bool)
        of_file: dict[Path, list[int]] = defaultdict(list)
        for i, layer in enumerate(self.layers):
            of_file[layer.path].append(i)
        if window.width and window.height:
            for at in of_file.values():
                numbers, seen = self._numbers([self.layers[i] for i in at], window)
                if seen is not None:
                    valid[0] &= seen
                for i, values in zip(at, numbers, strict=True):
                    valid[0] &= _values(self.layers[i], values, data[i])
        data *= valid
        return Input(
            data=data,
            channels=self.channels,
            units=self.units,
            unit=self.place.unit,
            spacing=self.place.spacing,
            valid=None if valid.all() else valid,
            source=self.source,
        )

    def _numbers(self, layers: list[Layer], window: Window) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """The numbers of bands of one file, and where its mask lets them be seen."""
        first, indexes = layers[0], [layer.index for layer in layers]
        with handles.environment():
            if first.same:
                src = handles.opened(first.path, first.name)
            else:
                nodata = first.nodata[0] if first.nodata else None
                src = handles.warped(first.path, first.name, self.place, nodata, self.resampling)
            try:
                numbers = src.read(indexes, window=window)
                seen = None
                if first.same and first.masked:
                    seen = src.read_masks(indexes[0], window=window) > 0
                elif not first.same and not first.nodata:  # its alpha band comes last
                    seen = src.read(src.count, window=window) > 0
                return numbers, seen
            except handles.FAILURES:
                handles.over()
                raise BadInput(
                    f"{first.name}: it is cut short or damaged at row {window.row_off}, column {window.col_off}; fetch it again "
                    "or remove it"
                ) from None


def _values(layer: Layer, numbers: NDArray[Any], out: NDArray[Any]) -> NDArray[np.bool_]:
    """Write the values of one band into `out`; where they are valid. Nodata is told by the numbers, before any offset."""
    valid = np.ones(numbers.shape, bool)
    for nodata in layer.nodata:
        valid &= ~np.isnan(numbers) if np.isnan(nodata) else numbers != nodata
    if layer.scale is not None:
        numbers = numbers * np.float64(layer.scale) + layer.offset
    if numbers.dtype.kind == "f":
        valid &= np.abs(numbers) <= np.finfo(np.float32).max  # false for NaN too
        numbers = np.where(valid, numbers, 0)
    if layer.unit == "power":
        valid &= numbers > 0  # radar power is never 0 where something was measured
    out[...] = numbers
    return valid
