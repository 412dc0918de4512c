"""Open files: per process, a bounded number, never pickled."""

from __future__ import annotations

import os
import resource
import warnings
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rasterio
from rasterio._err import CPLE_BaseError  # GDAL's own errors, where rasterio gives them no name
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT

from unlabeled.core.contracts import BadInput

if TYPE_CHECKING:
    from unlabeled.earth.scene import Place

# a quarter of what the process may hold open: a file's mask lies in a file of its own, and others open files too
LIMIT = min(256, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)
FAILURES = (RasterioError, CPLE_BaseError)
# TRUE and not EMPTY_DIR: a mask or statistics file beside a local image still counts
ENV: dict[str, Any] = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_NUM_THREADS": "1",
    "GDAL_HTTP_MAX_RETRY": 3,
    "GDAL_HTTP_RETRY_DELAY": 1,
    "GDAL_HTTP_TIMEOUT": 30,
    "VSI_CACHE": "TRUE",
}
if "GDAL_CACHEMAX" not in os.environ:
    ENV["GDAL_CACHEMAX"] = (
        1 << 30
    )  # in bytes, though the variable of that name is in MB; else 5 % of the machine, by process
# by process: a GDAL handle must not be used, nor closed, by a child that was forked with it
_OPEN: dict[int, OrderedDict[Any, tuple[Any, ExitStack]]] = {}


def environment() -> Any:
    """GDAL's settings for reading: retries for remote files, one thread, a bounded cache."""
    return rasterio.Env(**ENV)


def opened(path: Path, name: str) -> Any:
    """The dataset at `path`. Raises BadInput where it is no raster, OSError where it is not there."""
    return _kept((_stamp(path),), path, name)


def warped(path: Path, name: str, place: Place, nodata: float | None, resampling: str) -> Any:
    """The dataset at `path` on another grid. Without declared nodata its last band is alpha: 0 is nothing."""
    return _kept((_stamp(path), place, None if nodata is None else repr(nodata), resampling), path, name)


def close(paths: Iterable[Path]) -> None:
    """Close what is open of these files."""
    mine, names = _OPEN.get(os.getpid(), OrderedDict()), {str(path) for path in paths}
    for key in [key for key in mine if key[0][0] in names]:
        mine.pop(key)[1].close()


def _stamp(path: Path) -> tuple[str, int, int]:
    if str(path).startswith("/vsi"):
        return str(path), 0, 0
    at = path.stat()
    return str(path), at.st_mtime_ns, at.st_size


def _kept(key: tuple[Any, ...], path: Path, name: str) -> Any:
    mine = _OPEN.setdefault(os.getpid(), OrderedDict())
    if key in mine:
        mine.move_to_end(key)
        return mine[key][0]
    with (
        environment(),
        ExitStack() as stack,
    ):  # a dataset opened without one brings its own, and ends ours when it closes
        src = stack.enter_context(_open(path, name))
        made = src
        if len(key) > 1:
            _, place, nodata, resampling = key
            made = _warp(stack, src, place, None if nodata is None else float(nodata), resampling)
        mine[key] = (made, stack.pop_all())
        while len(mine) > LIMIT:
            mine.popitem(last=False)[1][1].close()
    return made


def _open(path: Path, name: str) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # the reader says it in its own words
        try:
            return rasterio.open(path)
        except FAILURES:
            over()
            raise BadInput(
                f"{name}: not a raster that GDAL can read, or cut short; fetch it again or remove it"
            ) from None


def _warp(stack: ExitStack, src: Any, place: Place, nodata: float | None, resampling: str) -> Any:
    alpha = ColorInterp.alpha in src.colorinterp
    about: dict[str, Any] = {"add_alpha": True} if not alpha and nodata is None else {}
    if nodata is not None:  # never smeared into its neighbours
        about |= {"src_nodata": nodata, "nodata": nodata}
    about["resampling"] = Resampling[resampling]
    crs = source_crs(src)
    if src.crs is None:  # GDAL finds its way by control points to a grid of its own only, so to ours from there
        src = stack.enter_context(WarpedVRT(src, src_crs=crs, crs=crs, **about))
        if (src.crs, src.transform, src.height, src.width) == (place.crs, place.transform, place.height, place.width):
            return src
        about.pop("add_alpha", None)
    grid = {"transform": place.transform, "width": place.width, "height": place.height}
    return stack.enter_context(WarpedVRT(src, src_crs=crs, crs=place.crs, **grid, **about))


def over() -> None:
    """To be called where a read failed: GDAL keeps its last error, and rasterio would raise it at the next call on any file.

    A call that begins by clearing it, and succeeds, ends that (rasterio 1.4.4, GDAL 3.10).
    """
    CRS.from_epsg(4326).to_wkt()


def source_crs(src: Any) -> Any:
    """The CRS of a dataset, or of its ground control points."""
    return src.crs or src.gcps[1]


def masked(src: Any) -> bool:
    """The dataset has a mask or an alpha band for all its bands."""
    return any(MaskFlags.per_dataset in flags for flags in src.mask_flag_enums)
