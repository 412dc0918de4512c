"""Synthetic samples, called so wherever they are shown: land cover by lot, with spectra or backscatter of each class.

They show that files, zones and units work, and give tests a truth. They say nothing of how well anything does on real data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter

from unlabeled.core.files import folder_atomic
from unlabeled.earth.samples import write_csv, write_raster, written
from unlabeled.earth.scene import Place

SIZE = 256  # pixels along each side of a scene
FIELD = 12.0  # pixels: how wide a patch of one class is, about
CLASSES = ("water", "field", "forest", "town")
ZONES = ((32632, 691_200.0), (32633, 303_600.0))  # EPSG code and western edge: neighbours over the border at 12 degrees
NORTH = 5_400_000.0

RADAR = ("VV", "VH")
# sigma nought in dB of VV and VH: of the order that C band shows; chosen, not measured
BACKSCATTER = ((-20.0, -27.0), (-12.0, -19.0), (-8.0, -14.0), (-3.0, -10.0))
LOOKS = 4.4  # equivalent number of looks of Sentinel-1 ground range products

OPTICAL = ("SR_B2", "SR_B3", "SR_B4", "SR_B5", "SR_B6", "SR_B7")
# surface reflectance in blue, green, red, near and two shortwave infrared bands: plausible, not measured
SPECTRA = (
    (0.04, 0.05, 0.03, 0.02, 0.01, 0.01),
    (0.06, 0.10, 0.09, 0.30, 0.25, 0.16),
    (0.03, 0.05, 0.03, 0.32, 0.14, 0.07),
    (0.12, 0.14, 0.15, 0.22, 0.24, 0.21),
)

README = """# Synthetic {what}

SYNTHETIC: made by a program, of nothing that was measured. {scenes} scenes of {size} x {size} pixels of {step:g} m in two UTM
zones (EPSG:32632 and EPSG:32633), classes {classes} laid out by lot.

{how}

`scenes/` holds the images, `labels/` the true class of every pixel (`classes.csv` names the codes).
"""


def sar(out: Path, scenes: int = 4, seed: int = 0) -> Path:
    """Write synthetic radar scenes into `out`, once and whole: VV and VH power in two UTM zones, and the true classes.

    A class's sigma nought in dB, one gain for each scene (deviation 1 dB), times speckle ~ Gamma(L, 1 / L), L = 4.4.
    """

    def draw(classes: NDArray[np.int64], stream: np.random.Generator) -> NDArray[np.float32]:
        db = np.array(BACKSCATTER).T[:, classes] + stream.normal(0, 1)
        power = 10 ** (db / 10) * stream.gamma(LOOKS, 1 / LOOKS, db.shape)
        return power.astype(np.float32)

    how = f"Backscatter of each class in dB, a gain for each scene, and gamma speckle of {LOOKS:g} looks; values are power."
    return _written(out, scenes, seed, "radar scenes", how, 10.0, RADAR, "power", draw)


def scenes(out: Path, scenes: int = 4, seed: int = 0) -> Path:
    """Write synthetic optical scenes into `out`, once and whole, as Landsat 8 Collection 2 Level 2 stores them.

    A class's reflectance, one haze for each scene (deviation 0.01 in every band), noise of 0.01 per pixel and band;
    DN = (reflectance + 0.2) / 2.75e-5 as uint16, 0 where there is nothing.
    """

    def draw(classes: NDArray[np.int64], stream: np.random.Generator) -> NDArray[np.uint16]:
        clean = np.array(SPECTRA).T[:, classes] + stream.normal(0, 0.01)
        noisy = np.clip(clean + stream.normal(0, 0.01, clean.shape), 0, 1)
        return np.round((noisy + 0.2) / 2.75e-5).astype(np.uint16)

    how = "Reflectance of each class, a haze for each scene, and noise; digital numbers as in Landsat Collection 2 Level 2."
    return _written(out, scenes, seed, "optical scenes", how, 30.0, OPTICAL, None, draw)


def land_cover(stream: np.random.Generator, size: int, classes: int, width: float) -> NDArray[np.int64]:
    """(size, size) codes: at each pixel the class whose smoothed noise is largest; patches are about `width` pixels wide."""
    noise = stream.normal(size=(classes, size, size))
    return np.asarray(gaussian_filter(noise, (0, width, width), mode="wrap").argmax(0))


def _written(
    out: Path,
    scenes: int,
    seed: int,
    what: str,
    how: str,
    step: float,
    bands: Sequence[str],
    unit: str | None,
    draw: Callable[[NDArray[np.int64], np.random.Generator], NDArray[Any]],
) -> Path:
    if written(out, "README.md"):
        return out
    with folder_atomic(out) as temp:
        for i in range(scenes):
            stream = np.random.default_rng([seed, i])
            code, west = ZONES[i % len(ZONES)]
            # one south of the other, with as much ground between them as a scene is long
            north = NORTH - 2 * (i // len(ZONES)) * SIZE * step
            place = Place(CRS.from_epsg(code), Affine(step, 0, west, 0, -step, north), SIZE, SIZE)
            classes = land_cover(stream, SIZE, len(CLASSES), FIELD)
            write_raster(temp / "scenes" / f"{i:02d}.tif", draw(classes, stream), place, 0, bands, unit)
            write_raster(temp / "labels" / f"{i:02d}.tif", classes[None].astype(np.uint8), place, 255, ("class",))
        write_csv(temp / "labels" / "classes.csv", ("code", "name"), list(enumerate(CLASSES)))
        about = README.format(what=what, scenes=scenes, size=SIZE, step=step, classes=", ".join(CLASSES), how=how)
        (temp / "README.md").write_text(about)
    return out
