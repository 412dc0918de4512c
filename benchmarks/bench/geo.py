"""What the rows of Earth observation share: synthetic scenes on disk, removed when the process ends."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.transform import from_origin

from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.data.corpus import Corpus

BANDS = ("blue", "green", "red", "nir")
GSD = 10.0


def folder() -> Path:
    made = Path(tempfile.mkdtemp(prefix="bench-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    return made


def scene(path: Path, side: int, row: int = 0, column: int = 0) -> Path:
    """A COG of `side` x `side` cells of 10 m with four uint16 bands: slow waves and noise, in a mosaic's row and column."""
    lot = np.random.default_rng([side, row, column])
    y, x = np.mgrid[:side, :side].astype(np.float32)
    origin = from_origin(500_000 + column * side * GSD, 5_000_000 - row * side * GSD, GSD, GSD)
    about: dict[str, Any] = {"count": 4, "height": side, "width": side, "dtype": "uint16", "crs": "EPSG:32633"}
    plain = path.with_suffix(".plain.tif")
    with rasterio.open(plain, "w", driver="GTiff", transform=origin, **about) as to:
        for band, name in enumerate(BANDS, start=1):
            waves = 3000 + 1000 * np.sin(x / (40 * band)) * np.cos(y / 60)
            to.write((waves + lot.integers(0, 64, (side, side))).astype(np.uint16), band)
            to.set_band_description(band, name)
    rasterio.shutil.copy(plain, path, driver="COG", compress="deflate")
    plain.unlink()
    return path


def corpus(path: Path, block: float) -> Corpus:
    options = {"block": block, "units": dict.fromkeys(BANDS, "DN")}
    return Corpus.open(domain("earth"), Data(path=path, options=options)).normalised("standard")
