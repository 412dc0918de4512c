"""Polygons and points as labels: a cell has the label of what its centre lies in, or of the point that lies in it."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError
from unlabeled.core.evaluation.labels import read_lines
from unlabeled.earth.label_rasters import Codes, Mask
from unlabeled.earth.scene import Place

log = logging.getLogger(__name__)

SLIVER = 0.01  # of the smaller polygon: what two of different labels may share, along a border that was drawn twice


class Polygons(Mask):
    """shapes: a GeoDataFrame in the CRS of the record with the column `code`; of overlapping ones the last is taken."""

    def __init__(self, place: Place, shapes: Any) -> None:
        super().__init__(place)
        self.shapes = shapes

    def window(self, rows: slice, cols: slice) -> Codes:
        from rasterio.features import rasterize
        from shapely import box

        out, here = self.empty(rows, cols), self.place.cut(rows, cols)
        near = np.sort(self.shapes.sindex.query(box(*here.bounds), predicate="intersects"))
        if out.size and len(near):
            pairs = zip(self.shapes.geometry.iloc[near], self.shapes["code"].iloc[near], strict=True)
            rasterize(pairs, out=out, transform=here.transform)
        return out


class Points(Mask):
    """rows, cols, codes: (N,) the labelled cells."""

    def __init__(self, place: Place, rows: Codes, cols: Codes, codes: Codes) -> None:
        super().__init__(place)
        self.rows, self.cols, self.codes = rows, cols, codes

    def window(self, rows: slice, cols: slice) -> Codes:
        out = self.empty(rows, cols)
        y, x = self.rows - rows.start, self.cols - cols.start
        there = (y >= 0) & (y < out.shape[0]) & (x >= 0) & (x < out.shape[1])
        out[y[there], x[there]] = self.codes[there]
        return out


def read_polygons(path: Path, places: Sequence[Place]) -> tuple[tuple[str, ...], list[Polygons]]:
    """Classes and one mask per place, of a vector file with the column `label`: made valid, brought to each CRS.

    Raises RequestError for what holds no labelled polygon, has no CRS, or labels one place twice.
    """
    import geopandas

    try:
        read = geopandas.read_parquet if path.suffix.lower() == ".parquet" else geopandas.read_file
        found = read(path)
    except (OSError, ValueError, RuntimeError) as error:
        first = " ".join(str(error).split())[:100]
        raise RequestError(f"{path} cannot be read as a file of polygons ({first}); write it again") from None
    if "label" not in found.columns:
        named = ", ".join(c for c in found.columns if c != found.geometry.name) or "none"
        raise RequestError(f"{path}: the polygons have no column `label` (columns: {named}); name the classes there")
    if found.crs is None:
        raise RequestError(f"{path} names no CRS, so nobody knows where its polygons lie; write it with one")
    missing = np.flatnonzero(found["label"].isna() | (found["label"].astype(str).str.strip() == ""))
    if len(missing):
        raise RequestError(f"{path}: the label of feature {missing[0] + 1} is empty; write one, or drop the feature")
    found = found[~(found.geometry.isna() | found.geometry.is_empty)]
    kinds = set(found.geom_type) - {"Polygon", "MultiPolygon"}
    if kinds:
        raise RequestError(
            f"{path} holds a {sorted(kinds)[0]}, and labels are polygons; give points as a CSV with x, y and label"
        )
    # what was a bow-tie becomes two triangles; lines and points that it leaves behind hold no cell's centre
    found = found.set_geometry(found.geometry.make_valid()).explode()
    found = found[found.geom_type == "Polygon"].reset_index(drop=True)
    if found.empty:
        raise RequestError(f"{path} holds no polygon with an area; draw some, each with a label")
    names = found["label"].astype(str).str.strip()
    classes = tuple(sorted(set(names)))
    found["code"] = names.map({name: code for code, name in enumerate(classes)})
    _once(path, found)
    texts = [_text(path, p) for p in places]
    shapes = {text: found.to_crs(text) for text in set(texts)}
    return classes, [Polygons(p, shapes[text]) for p, text in zip(places, texts, strict=True)]


def _once(path: Path, found: Any) -> None:
    """Raises RequestError where polygons of two labels share ground: a cell has one label."""
    from shapely import area, intersection

    a, b = found.sindex.query(found.geometry, predicate="intersects")
    names = found["label"].to_numpy()
    twice = (a < b) & (names[a] != names[b])
    a, b = a[twice], b[twice]
    shapes = found.geometry.to_numpy()
    share = area(intersection(shapes[a], shapes[b])) / np.minimum(area(shapes[a]), area(shapes[b]))
    worst = int(share.argmax()) if len(share) else -1
    if worst >= 0 and share[worst] > SLIVER:
        raise RequestError(
            f"{path}: {share[worst]:.0%} of a polygon lies under both {names[a[worst]]!r} and {names[b[worst]]!r}; "
            "a cell has one label, cut one of them"
        )


def _text(path: Path, place: Place) -> str:
    if place.crs is None:
        raise RequestError(
            f"{path} needs scenes with a CRS, and some have none; give these their CRS, or leave them out"
        )
    return str(place.crs.to_wkt())


COLUMNS = ("x", "y", "label")


def is_points(path: Path) -> bool:
    """A CSV whose first line names x, y and label."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return set(COLUMNS) <= {c.strip().strip('"') for c in file.readline().split(",")}
    except (OSError, UnicodeDecodeError):
        return False  # the core says what is wrong with it


def read_points(path: Path, places: Sequence[Place]) -> tuple[tuple[str, ...], list[Points]]:
    """Classes and one mask per place, of a CSV with x, y, label and, where that is not the scenes' own, crs.

    Raises RequestError for positions that are no numbers, an unknown or missing CRS, and a cell with two labels.
    """
    columns, lines = read_lines(path, (*COLUMNS, "crs"), COLUMNS)
    own = {_text(path, p) for p in places}
    if "crs" not in columns and len(own) > 1:
        raise RequestError(f"{path}: the scenes have {len(own)} CRSs; say in a column crs which one x and y are in")
    points = np.array([[_number(path, number, line[name]) for name in "xy"] for number, line in lines]).reshape(-1, 2)
    labels = [line["label"] for _, line in lines]
    for (number, _), label in zip(lines, labels, strict=True):
        if not label:
            raise RequestError(f"{path}, line {number}: the label is empty; write one, or drop the line")
    classes = tuple(sorted(set(labels)))
    codes = np.array([classes.index(label) for label in labels], np.int64)
    moved = _moved(path, points, [line.get("crs", "") for _, line in lines], own)
    masks, hit = [], np.zeros(len(lines), bool)
    for place in places:
        x, y = ~place.transform @ moved[_text(path, place)].T
        inside = np.flatnonzero((x >= 0) & (x < place.width) & (y >= 0) & (y < place.height))
        rows, cols = y[inside].astype(np.int64), x[inside].astype(np.int64)
        cell = rows * place.width + cols
        first: dict[int, int] = {}
        for i, at in zip(inside.tolist(), cell.tolist(), strict=True):
            if codes[first.setdefault(at, i)] != codes[i]:
                raise RequestError(
                    f"{path}, line {lines[i][0]}: {labels[i]!r} lies in the cell that line {lines[first[at]][0]} labels "
                    f"{labels[first[at]]!r}; a cell has one label"
                )
        hit[inside] = True
        masks.append(Points(place, rows, cols, codes[inside]))
    if not hit.all() and hit.any():
        log.warning("%s: %d of %d points lie outside of every scene", path.name, (~hit).sum(), len(hit))
    return classes, masks


def _moved(path: Path, points: NDArray[np.float64], written: Sequence[str], own: Collection[str]) -> dict[str, Any]:
    """CRS of a scene -> (N, 2) the points in it; written: the CRS of each point, or nothing where it is the scenes' own."""
    from pyproj import CRS, Transformer
    from pyproj.exceptions import CRSError

    out = {}
    for text in own:
        out[text] = points.copy()
        for name in set(written) - {""}:
            at = np.array([w == name for w in written])
            try:
                to = Transformer.from_crs(CRS.from_user_input(name), CRS.from_wkt(text), always_xy=True)
            except CRSError:
                raise RequestError(f"{path}: {name!r} is no CRS; write one as EPSG:4326") from None
            out[text][at] = np.stack(to.transform(*points[at].T), -1)
    return out


def _number(path: Path, number: int, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise RequestError(f"{path}, line {number}: {text!r} is no position; write a finite number, or drop the line")
    return value
