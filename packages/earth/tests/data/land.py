"""Small real GeoTIFFs of made-up land: two bands, and what lies there, which the first band tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from unlabeled.core import streams

UTM33, STEP = "EPSG:32633", 10.0
ORIGIN = (480_000.0, 5_280_000.0)  # west, north
CLASSES = {1: "water", 4: "forest"}
BLOCK = 240  # metres

RECIPE = """
domain: earth
data: {{path: {data}, normaliser: standard, window: [80, 80], stride: [40, 40], options: {{block: 240}}}}
method: {{name: mae, mask_ratio: 0.5}}
encoder: {{name: tokens, width: 16, depth: 1, heads: 2, patch: [2, 2]}}
trainer: {{loop: plain, accelerator: cpu, tensorboard: false, threads: 1}}
batch_size: 16
max_steps: 3
"""


def transform(origin: tuple[float, float] = ORIGIN, step: float = STEP) -> Affine:
    return Affine(step, 0, origin[0], 0, -step, origin[1])


def write(path: Path, bands: NDArray[Any], at: Affine | None = None, crs: str | None = UTM33, **about: Any) -> Path:
    """A GeoTIFF of (C, H, W), or of (H, W)."""
    bands = bands if bands.ndim == 3 else bands[None]
    path.parent.mkdir(parents=True, exist_ok=True)
    names = about.pop("names", None)
    fixed = {"driver": "GTiff", "count": len(bands), "height": bands.shape[1], "width": bands.shape[2]}
    with rasterio.open(
        path, "w", **{**fixed, "dtype": bands.dtype, "crs": crs, "transform": at or transform(), **about}
    ) as dst:
        dst.write(bands)
        if names:
            dst.descriptions = names
    return path


def height(seed: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Smooth, of mean about 0."""
    return (gaussian_filter(streams.rng(0, "land", seed).standard_normal(shape), 4) * 12).astype(np.float32)


def scene(path: Path, seed: int = 0, shape: tuple[int, int] = (96, 120), at: Affine | None = None, **about: Any) -> Any:
    """Writes a scene whose last rows are nodata; its height (H, W)."""
    ground = height(seed, shape)
    bands = np.stack([ground, streams.rng(1, "land", seed).standard_normal(shape).astype(np.float32)])
    bands[:, -5:] = -9999
    write(path, bands, at, **{"nodata": -9999, "names": ("height", "noise"), **about})
    return ground


def cover(ground: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Forest where the ground is high, water where it is low."""
    return np.where(ground > 0, 4, 1).astype(np.uint8)


def classes(folder: Path, names: dict[int, str] = CLASSES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "classes.csv").write_text("code,name\n" + "".join(f"{c},{n}\n" for c, n in names.items()))
