"""Land-cover rasters as labels: read window by window, on the grid of a record."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import BadInput, RequestError
from unlabeled.core.evaluation.labels import UNLABELLED, read_lines
from unlabeled.earth.handles import FAILURES, environment, opened, over
from unlabeled.earth.scene import Place

Codes = NDArray[np.int64]
CLASSES = "classes.csv"
TOLERANCE = 0.01  # of a cell: what two grids may differ by and still be one


class Mask(ABC):
    """The labels of one record, never all in memory: an array of `shape` that is read where it is sliced, -1: no label."""

    def __init__(self, place: Place) -> None:
        self.place, self.shape = place, (place.height, place.width)

    def __getitem__(self, region: tuple[slice, ...]) -> Codes:
        whole = slice(None), slice(None)
        y, x = (slice(*s.indices(n)) for s, n in zip((*region, *whole)[:2], self.shape, strict=True))
        part = self.window(slice(y.start, max(y.start, y.stop)), slice(x.start, max(x.start, x.stop)))
        return part[:: y.step, :: x.step]

    @abstractmethod
    def window(self, rows: slice, cols: slice) -> Codes:
        """The codes of these cells."""

    def empty(self, rows: slice, cols: slice) -> Codes:
        return np.full((rows.stop - rows.start, cols.stop - cols.start), UNLABELLED, np.int64)


class Aligned(Mask):
    """A raster on the record's own grid, whose first cell is its cell `at` (row, column)."""

    def __init__(self, place: Place, raster: Raster, at: tuple[int, int]) -> None:
        super().__init__(place)
        self.raster, self.at = raster, at

    def window(self, rows: slice, cols: slice) -> Codes:
        out = self.empty(rows, cols)
        (top, left), (height, width) = (rows.start + self.at[0], cols.start + self.at[1]), self.raster.src.shape
        y = slice(max(top, 0), min(top + out.shape[0], height))
        x = slice(max(left, 0), min(left + out.shape[1], width))
        if y.start < y.stop and x.start < x.stop:
            out[y.start - top : y.stop - top, x.start - left : x.stop - left] = self.raster.read(y, x)
        return out


class Nearest(Mask):
    """A raster on another grid: each cell gets the label that lies under its centre."""

    def __init__(self, place: Place, raster: Raster) -> None:
        from pyproj import Transformer

        super().__init__(place)
        assert place.crs is not None
        self.raster = raster
        self._to = Transformer.from_crs(place.crs.to_wkt(), raster.src.crs.to_wkt(), always_xy=True)

    def window(self, rows: slice, cols: slice) -> Codes:
        out = self.empty(rows, cols)
        src = self.raster.src
        y, x = np.mgrid[rows, cols] + 0.5
        x, y = self.place.transform @ (x, y)
        x, y = ~src.transform @ self._to.transform(x, y)
        there = (x >= 0) & (x < src.width) & (y >= 0) & (y < src.height)  # not so for infinite ones either
        if there.any():
            x, y = x[there].astype(int), y[there].astype(int)
            part = self.raster.read(slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1))
            out[there] = part[y - y.min(), x - x.min()]
        return out


@dataclass(frozen=True)
class Raster:
    """A raster of class codes. Raises RequestError where it holds no integers, or more than one band."""

    path: Path

    def __post_init__(self) -> None:
        src = self.src
        bands = src.count - sum(kind.name == "alpha" for kind in src.colorinterp)
        if bands != 1:
            raise RequestError(f"{self.path} holds {bands} bands, and labels are one band of codes; write them alone")
        if not np.issubdtype(src.dtypes[0], np.integer):
            part = self._values(slice(0, min(512, src.height)), slice(0, min(512, src.width)))
            raise RequestError(
                f"{self.path} holds {src.dtypes[0]} (such as {_listed(np.unique(part.compressed())[:5])}), and a label is an "
                "integer code; write it again as uint8 or uint16"
            )

    @property
    def src(self) -> Any:
        """The open dataset, of this process."""
        try:
            return opened(self.path, str(self.path))
        except BadInput as error:
            raise RequestError(str(error)) from None

    def read(self, rows: slice, cols: slice) -> Codes:
        """Codes of these cells, -1 where the file says nodata. Raises RequestError where it cannot be read there."""
        codes: Codes = self._values(rows, cols).astype(np.int64).filled(UNLABELLED)
        return codes

    def _values(self, rows: slice, cols: slice) -> Any:
        """Masked array of the numbers in these cells."""
        with environment():
            src = self.src
            try:
                return src.read(1, window=((rows.start, rows.stop), (cols.start, cols.stop)), masked=True)
            except FAILURES:
                over()
                raise RequestError(
                    f"{self.path}: it is cut short or damaged at row {rows.start}, column {cols.start}; fetch it again or "
                    "remove it"
                ) from None

    def on(self, place: Place, name: str, nearest: bool) -> Mask:
        """Its labels of a record of the file `name`. Raises RequestError, saying how far off it is and what would allow it."""
        src = self.src
        if src.crs != place.crs:
            why = f"is in {crs_name(src.crs)} and {name} in {crs_name(place.crs)}"
        else:
            # where the record's corners lie among the raster's cells: the steps are equal where both are equally far off
            corners = (0, 0), (place.width, place.height)
            (x, y), (far_x, far_y) = (~src.transform @ (place.transform @ at) for at in corners)
            off_x, off_y = x - round(x), y - round(y)
            if max(abs(far_x - x - place.width), abs(far_y - y - place.height)) > TOLERANCE:
                why = f"has cells of {_cell(src.transform)} and {name} of {_cell(place.transform)}"
            elif max(abs(off_x), abs(off_y)) > TOLERANCE:
                why = (
                    f"is off the grid of {name} by {off_x:.3g} cells in x and {off_y:.3g} in y, cells of "
                    f"{_cell(src.transform)}"
                )
            else:
                return Aligned(place, self, (round(y), round(x)))
        if nearest and src.crs is not None and place.crs is not None:
            return Nearest(place, self)
        raise RequestError(
            f"{self.path} {why}; bring it to that grid, or take the nearest cell by the reader's option align_labels=nearest"
        )

    @cached_property
    def names(self) -> dict[int, str]:
        """Code -> class: from `classes.csv` (code, name) beside the file, its tags CLASS_code, its category names; or none."""
        beside = self.path.with_name(CLASSES)
        if beside.is_file():
            return read_classes(beside)
        tags = {int(k[6:]): v for k, v in self.src.tags(1).items() if re.fullmatch(r"CLASS_\d+", k)}
        return tags or {code: name for code, name in enumerate(categories(self.path)) if name}


def _cell(transform: Any) -> str:
    return f"{abs(transform.a):g} x {abs(transform.e):g}"


def crs_name(crs: Any) -> str:
    if crs is None:
        return "no CRS"
    authority = crs.to_authority()
    return ":".join(authority) if authority else crs.to_wkt()[:60]


def categories(path: Path) -> list[str]:
    """GDAL's category names of the first band, by code. rasterio does not show them; a VRT of the file does."""
    import rasterio.shutil
    from rasterio.io import MemoryFile

    with MemoryFile(ext=".vrt") as vrt:
        rasterio.shutil.copy(path, vrt.name, driver="VRT")
        return [c.text or "" for c in ElementTree.fromstring(vrt.read()).findall(".//CategoryNames/Category")]


def read_classes(path: Path) -> dict[int, str]:
    names: dict[int, str] = {}
    for number, line in read_lines(path, ("code", "name"))[1]:
        if not line["code"].isdecimal() or not line["name"]:
            raise RequestError(f"{path}, line {number}: write a code (an integer, at least 0) and a name")
        code = int(line["code"])
        if code in names or line["name"] in names.values():
            raise RequestError(f"{path}, line {number}: {line['code']} or {line['name']!r} is there twice; keep one")
        names[code] = line["name"]
    return names


def named(used: Mapping[int, Path], names: Mapping[int, str]) -> dict[int, str]:
    """The classes that are used, by code. Raises RequestError for codes without a name where there are names."""
    unknown = [code for code in used if code not in names] if names else [code for code in used if code < 0]
    if unknown:
        raise RequestError(
            f"{used[unknown[0]]} holds values outside of the classes {_listed(list(names)[:12]) or '0, 1, ...'}: "
            f"{_listed(sorted(unknown))}; name them in {CLASSES} (code, name), or declare the value that means no label as nodata"
        )
    classes = {code: names.get(code, str(code)) for code in sorted(used)}
    twice = {name for name in classes.values() if list(classes.values()).count(name) > 1}
    if twice:
        raise RequestError(
            f"{next(iter(used.values()))}: {min(twice)!r} is the name of several codes; give each its own"
        )
    return classes


def _listed(values: Any) -> str:
    return ", ".join(f"{v:g}" for v in values[:10]) + (", ..." if len(values) > 10 else "")
