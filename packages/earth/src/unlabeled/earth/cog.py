"""Maps as Cloud Optimized GeoTIFFs: written row by row, whole or not at all."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import rasterio
import rasterio.shutil

from unlabeled.core.files import write_atomic
from unlabeled.earth.scene import Place

GOLDEN = 0.618034  # of a turn from hue to hue: any number of them lies apart


@dataclass(frozen=True)
class Kind:
    """What a map holds: its bands by name, the value of a missing cell, how overviews are made.

    names  code -> class, of a map of classes; empty for values
    """

    dtype: str
    bands: tuple[str, ...]
    nodata: float
    overviews: str
    names: Mapping[int, str] = field(default_factory=dict)


def classes(names: Mapping[int, str]) -> Kind:
    """uint8 with nodata 255, or uint16 with nodata 65535 where a code needs it; an overview's cell is the most frequent class."""
    small = max(names) < 255
    return Kind("uint8" if small else "uint16", ("class",), 255 if small else 65535, "mode", names)


def probabilities(names: Sequence[str]) -> Kind:
    """float32 in 0 ... 1, a band for each class, NaN where there is no data; an overview's cell is the mean."""
    return Kind("float32", tuple(names), float("nan"), "average")


@contextmanager
def cog(path: Path, place: Place, kind: Kind, tags: Mapping[str, str]) -> Iterator[Any]:
    """A dataset of the place's grid, to be written in rows; after the block it is the COG `path`, with overviews.

    Class names stand in the band's tags as CLASS_code and beside the file, where GDAL keeps category names.
    """
    rows = path.with_name(f".{path.name}.rows.tif")
    about: dict[str, Any] = {
        "driver": "GTiff",
        "height": place.height,
        "width": place.width,
        "count": len(kind.bands),
        "dtype": kind.dtype,
        "crs": place.crs,
        "transform": place.transform,
        "nodata": kind.nodata,
        "blockysize": 1,  # so that any rows that are written are whole strips
        "interleave": "band",
        "compress": "lzw",
        "bigtiff": "if_safer",
    }
    try:
        with rasterio.open(rows, "w", **about) as dataset:
            dataset.update_tags(**tags)
            for number, name in enumerate(kind.bands, start=1):
                dataset.set_band_description(number, name)
            if kind.names:
                dataset.write_colormap(1, colours(kind.names))
                dataset.update_tags(1, **{f"CLASS_{code}": name for code, name in kind.names.items()})
            yield dataset
        how = {"compress": "deflate", "bigtiff": "if_safer", "overview_resampling": kind.overviews}
        write_atomic(path, lambda to: rasterio.shutil.copy(rows, to, driver="COG", **how))
    finally:
        rows.unlink(missing_ok=True)
    if kind.names:
        write_atomic(path.with_name(f"{path.name}.aux.xml"), _categories(kind.names))


def colours(names: Mapping[int, str]) -> dict[int, tuple[int, int, int, int]]:
    """Code -> RGBA: hues a golden section apart, the same for the same codes."""
    return {code: (*_rgb(number * GOLDEN % 1), 255) for number, code in enumerate(sorted(names))}


def _rgb(hue: float) -> tuple[int, int, int]:
    red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.6, 0.85))
    return red, green, blue


def _categories(names: Mapping[int, str]) -> bytes:
    """GDAL's sidecar: category names by position, empty where there is no class."""
    root = ElementTree.Element("PAMDataset")
    band = ElementTree.SubElement(root, "PAMRasterBand", band="1")
    listed = ElementTree.SubElement(band, "CategoryNames")
    for code in range(max(names) + 1):
        ElementTree.SubElement(listed, "Category").text = names.get(code, "")
    return ElementTree.tostring(root)


def created() -> str:
    """Now, or SOURCE_DATE_EPOCH where that is set, so that the same map can have the same bytes."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return (datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now(UTC)).isoformat(timespec="seconds")
