"""Scenes of several files: products of Sentinel-2 (SAFE), and bands that `options.stack` puts together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from unlabeled.core.contracts import BadInput
from unlabeled.earth.bands import File
from unlabeled.earth.sensors import SENSORS, SensorSpec

SUFFIXES = (".tif", ".tiff", ".vrt", ".jp2")
PRODUCTS = {"MTD_MSIL1C.xml": "sentinel2-l1c", "MTD_MSIL2A.xml": "sentinel2-l2a"}
_SAFE_BAND = re.compile(r"_(B\d[\dA])(?:_(\d+)m)?\.(?:jp2|tif)$", re.IGNORECASE)


def listed(root: Path, stack: str | None) -> list[Path]:
    """One path for each scene below `root`, sorted: its file, its first band's, or its product's metadata."""
    files = sorted(p for p in root.rglob("*") if not any(part.startswith(".") for part in p.relative_to(root).parts))
    products = [p for p in files if p.name in PRODUCTS]
    inside = {p.parent for p in products}
    rasters = [p for p in files if p.suffix.lower() in SUFFIXES and inside.isdisjoint(p.parents) and p.is_file()]
    if stack is None:
        return sorted([*products, *rasters])
    first: dict[str, Path] = {}
    for path in rasters:
        split = split_band(path.relative_to(root).as_posix(), stack)
        if split:
            first.setdefault(split[0], path)
    return sorted([*products, *first.values()])


def split_band(name: str, stack: str) -> tuple[str, str] | None:
    """(the path without its band, the band), or None where the pattern does not find it."""
    found = re.search(stack, name)
    if not found or not found["band"]:
        return None
    start, end = found.span("band")
    return name[:start] + name[end:], found["band"]


def stacked(path: Path, root: Path, stack: str) -> tuple[str, list[File]]:
    """The scene's key and the files of its bands: those in the folder of `path` that differ in the band alone."""
    split = split_band(path.relative_to(root).as_posix(), stack)
    if split is None:
        raise BadInput(f"{path.name}: options.stack finds no band in its path; correct the pattern")
    files = []
    for other in sorted(path.parent.iterdir()):
        name = other.relative_to(root).as_posix()
        found = split_band(name, stack)
        if found and found[0] == split[0]:
            files.append(File(other, name, found[1]))
    key = re.sub(r"\.\w+$", "", split[0]).rstrip("_-./")
    return key or path.parent.name, files


def product(path: Path, root: Path) -> tuple[SensorSpec, list[File]]:
    """The sensor of a SAFE product and its band files, the finest of each. path: its metadata file.

    Raises BadInput where it holds none.
    """
    spec = SENSORS[PRODUCTS[path.name]]
    best: dict[str, tuple[int, File]] = {}
    for file in sorted(_images(path.parent)):
        found = _SAFE_BAND.search(file.name)
        if found and spec.knows(found[1]):
            gsd = int(found[2] or 0)
            if found[1] not in best or gsd < best[found[1]][0]:
                best[found[1]] = gsd, File(file, file.relative_to(root).as_posix(), found[1])
    if not best:
        raise BadInput(f"{path.relative_to(root).as_posix()}: the product holds no band; fetch it again")
    return spec, [file for _, file in best.values()]


def _images(folder: Path) -> Iterable[Path]:
    return folder.glob("GRANULE/*/IMG_DATA/**/*")
