"""Tiny real rasters: what satellites and their processors write, a few dozen pixels wide."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin

ZONE33 = "EPSG:32633"
ZONE32 = "EPSG:32632"
CORNER = (500_000.0, 5_000_000.0)
S2_L2A = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def dn(bands: int = 3, height: int = 20, width: int = 30, seed: int = 0) -> NDArray[np.uint16]:
    """(C, H, W) digital numbers as Sentinel-2 has over land: 1,000 to 4,000."""
    return rng(seed).integers(1000, 4000, (bands, height, width)).astype(np.uint16)


def north_up(west: float = CORNER[0], north: float = CORNER[1], step: float = 10.0) -> Affine:
    return from_origin(west, north, step, step)


def raster(
    path: Path,
    values: NDArray[Any],
    names: Sequence[str] | None = ("red", "green", "blue"),
    *,
    crs: str | None = ZONE33,
    transform: Affine | None = None,
    tags: Mapping[str, str] | None = None,
    scales: Sequence[float] | None = None,
    offsets: Sequence[float] | None = None,
    units: Sequence[str] | None = None,
    mask: NDArray[np.bool_] | None = None,
    gcps: tuple[Sequence[GroundControlPoint], CRS] | None = None,
    **profile: Any,
) -> Path:
    """Write (C, H, W) `values` as a GeoTIFF (or `driver`) and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands, height, width = values.shape
    about: dict[str, Any] = {"driver": "GTiff", "dtype": values.dtype.name, "crs": crs, **profile}
    if gcps is None and crs is not None:
        about["transform"] = north_up() if transform is None else transform
    elif transform is not None:
        about["transform"] = transform
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with (
            rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
            rasterio.open(path, "w", count=bands, height=height, width=width, **about) as dst,
        ):
            dst.write(values)
            if names is not None:
                dst.descriptions = tuple(names)[:bands]
            for key, value in (("scales", scales), ("offsets", offsets), ("units", units)):
                if value is not None:
                    setattr(dst, key, tuple(value))
            if tags:
                dst.update_tags(**tags)
            if mask is not None:
                dst.write_mask(mask)
            if gcps is not None:
                dst.gcps = gcps
    return path


def south_up(path: Path, values: NDArray[Any], **about: Any) -> Path:
    """The file whose first row is its south edge, at the same place as `raster(path, values[:, ::-1])`."""
    west, north = CORNER
    return raster(path, values, transform=Affine(10, 0, west, 0, 10, north - 10 * values.shape[1]), **about)


def rotated(path: Path, values: NDArray[Any], degrees: float, **about: Any) -> Path:
    turned = Affine.translation(*CORNER) * Affine.rotation(degrees) * Affine.scale(10, -10)
    return raster(path, values, transform=turned, **about)


def by_control_points(path: Path, values: NDArray[Any], **about: Any) -> Path:
    """No transform: four control points at the corners put it where `raster(path, values)` lies."""
    (west, north), (height, width) = CORNER, values.shape[1:]
    corners = [(row, col) for row in (0, height) for col in (0, width)]
    points = [GroundControlPoint(row, col, west + 10 * col, north - 10 * row) for row, col in corners]
    return raster(path, values, crs=None, gcps=(points, CRS.from_string(ZONE33)), **about)


def with_alpha(path: Path, values: NDArray[np.uint8], seen: NDArray[np.bool_]) -> Path:
    """RGB and an alpha band."""
    alpha = np.where(seen, 255, 0).astype(np.uint8)[None]
    raster(path, np.concatenate([values, alpha]), ("red", "green", "blue", "alpha"), photometric="RGB", alpha="YES")
    with rasterio.open(path) as src:
        assert src.colorinterp[3] == ColorInterp.alpha
    return path


def truncated(path: Path, keep: float = 0.5, values: NDArray[Any] | None = None, **about: Any) -> Path:
    """A file that opens, for its directory comes first, and ends in the middle of its pixels."""
    whole = raster(path.with_suffix(".whole"), dn(3, 64, 64) if values is None else values, **about)
    rasterio.shutil.copy(whole, path, driver="GTiff")
    whole.unlink()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    return path


def true_colour(path: Path, bands: Sequence[str] = ("B4", "B3", "B2")) -> Path:
    """The 8-bit picture that comes with a Sentinel-2 product."""
    return raster(path, rng().integers(1, 256, (3, 20, 30)).astype(np.uint8), bands)


def collar(path: Path, value: float = 0, columns: int = 6, **about: Any) -> Path:
    """Reflectance-like int16 with an edge of `value` that no tag declares as nodata."""
    values = dn().astype(np.int16)
    values[:, :, :columns] = value
    return raster(path, values, **about)


def radar(path: Path, unit: str, height: int = 20, width: int = 30, **about: Any) -> Path:
    """VV and VH backscatter of speckled land, 4 looks: power gamma-distributed about 0.08 and 0.02."""
    power = np.stack([rng(i).gamma(4, mean / 4, (height, width)) for i, mean in enumerate((0.08, 0.02))])
    values = power if unit == "power" else np.sqrt(power) * 1000 if unit == "amplitude" else 10 * np.log10(power)
    return raster(path, values.astype(np.float32), ("VV", "VH"), **about)


PRODUCT_L2A = """<?xml version="1.0" encoding="UTF-8"?>
<n1:Level-2A_User_Product xmlns:n1="https://psd-14.sentinel2.eo.esa.int/PSD/User_Product_Level-2A.xsd">
 <n1:General_Info><Product_Info><PROCESSING_BASELINE>{baseline}</PROCESSING_BASELINE></Product_Info>
 <Product_Image_Characteristics>
  <Special_Values><SPECIAL_VALUE_TEXT>NODATA</SPECIAL_VALUE_TEXT><SPECIAL_VALUE_INDEX>0</SPECIAL_VALUE_INDEX></Special_Values>
  <QUANTIFICATION_VALUES_LIST><BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>
  </QUANTIFICATION_VALUES_LIST>{offsets}
 </Product_Image_Characteristics></n1:General_Info>
</n1:Level-2A_User_Product>
"""


def safe(
    folder: Path, baseline: str = "05.09", add: int | None = -1000, size: int = 12
) -> dict[str, NDArray[np.uint16]]:
    """A Level-2A product folder with B2 and B4 at 10 m, B8A at 20 m (and B4 at 20 m again), and its true-colour picture.

    Returns the digital numbers written, by band.
    """
    images = folder / "GRANULE" / "L2A_T33TWN_A000000_20220801T100000" / "IMG_DATA"
    jp2: dict[str, Any] = {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"}
    written = {}
    for seed, (band, gsd) in enumerate([("B02", 10), ("B04", 10), ("B8A", 20), ("B04", 20)]):
        n = size * 10 // gsd
        values = dn(1, n, n, seed)
        values[0, 0, 0] = 0
        raster(
            images / f"R{gsd}m" / f"T33TWN_20220801T100000_{band}_{gsd}m.jp2",
            values,
            None,
            transform=north_up(step=gsd),
            **jp2,
        )
        written.setdefault(band, values)
    raster(images / "R10m" / "T33TWN_20220801T100000_TCI_10m.jp2", dn(3, size, size).astype(np.uint8), None, **jp2)
    rows = (
        "".join(f'<BOA_ADD_OFFSET band_id="{i}">{add}</BOA_ADD_OFFSET>' for i in range(13)) if add is not None else ""
    )
    offsets = f"<BOA_ADD_OFFSET_VALUES_LIST>{rows}</BOA_ADD_OFFSET_VALUES_LIST>" if rows else ""
    (folder / "MTD_MSIL2A.xml").write_text(PRODUCT_L2A.format(baseline=baseline, offsets=offsets))
    return written
