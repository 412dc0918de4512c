"""Data sets of torchgeo as a folder that our reader reads: GeoTIFFs, and labels beside them."""

from __future__ import annotations

import csv
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin

from unlabeled.core.contracts import RequestError
from unlabeled.core.files import folder_atomic, free

log = logging.getLogger(__name__)

Where = tuple[Any, Affine | None]  # CRS and transform; of chips without a place (None, None)


def from_torchgeo(
    dataset: Any,
    out: str | Path,
    units: str | Sequence[str],
    *,
    bands: Sequence[str] | None = None,
    nodata: float | None = None,
    ignore: int | None = None,
) -> Path:
    """Write every image of a torchgeo data set, with its label or mask, into the new folder `out`. Returns the images' folder.

        out/images/00000.tif ...            values as the data set gives them, band names and units in the file
        out/labels.csv                      key, label: of `label`s
        out/masks/00000.tif ..., classes.csv    of `mask`s

    dataset  a NonGeoDataset, item by item: chips without a CRS (read them with allow_nogeo: true); or a GeoDataset, one
             image for the footprint and time of each entry of its index, with CRS and transform
    units    of the values, or of each band: DN, 1 (reflectance), dB, power, K; torchgeo does not tell
    bands    names of the image's channels; none: the data set's own
    nodata   value of a missing pixel, which torchgeo does not tell. ignore: value of a mask without a label

    Nothing is normalised or resampled here: leave `transforms` of the data set out. Raises RequestError where `out` is in
    use, an item holds no image, or its channels have no names.
    """
    out = Path(out)
    free(out)
    names = _bands(dataset) if bands is None else tuple(bands)
    of_bands = (units,) * len(names) if isinstance(units, str) else tuple(units)
    if len(of_bands) != len(names):
        raise RequestError(
            f"units: there are {len(of_bands)} for the {len(names)} bands {', '.join(names)}; name one for each"
        )
    classes = [str(c) for c in getattr(dataset, "classes", ())]
    labels: list[tuple[str, str]] = []
    with folder_atomic(out) as temp:
        (temp / "images").mkdir()
        for number, (sample, where) in enumerate(_samples(dataset)):
            key = f"{number:05d}"
            image = _image(sample, names, number)
            if set(of_bands) == {"DN"}:
                image = _numbers(image)
            _write(temp / "images" / f"{key}.tif", image, where, nodata, names, of_bands)
            if "mask" in sample:
                (temp / "masks").mkdir(exist_ok=True)
                _write(temp / "masks" / f"{key}.tif", _mask(sample["mask"], image.shape[1:], number), where, ignore)
            elif "label" in sample:
                labels.append((key, _label(sample["label"], classes, number)))
        if not any((temp / "images").iterdir()):
            raise RequestError(f"{type(dataset).__name__} holds no item; look at its root and split")
        if labels:
            _table(temp / "labels.csv", [("key", "label"), *labels])
        if (temp / "masks").is_dir() and classes:
            _table(temp / "masks" / "classes.csv", [("code", "name"), *enumerate(classes)])
    return out / "images"


def _samples(dataset: Any) -> Iterator[tuple[Mapping[str, Any], Where]]:
    from torchgeo.datasets import GeoDataset

    if not isinstance(dataset, GeoDataset):
        for i in range(len(dataset)):
            yield dataset[i], (None, None)
        return
    dx, dy = dataset.res
    for time, geometry in zip(dataset.index.index, dataset.index.geometry, strict=True):
        west, south, east, north = geometry.bounds
        yield dataset[west:east, south:north, time.left : time.right], (dataset.crs, from_origin(west, north, dx, dy))


def _bands(dataset: Any) -> tuple[str, ...]:
    """The names that torchgeo's data sets have their channels under: those chosen, else all."""
    parts = getattr(dataset, "datasets", (dataset,))  # of an intersection, the first that has images
    for part in parts:
        for attribute in ("bands", "all_bands", "all_band_names"):
            names = getattr(part, attribute, None)
            if names and all(isinstance(n, str) for n in names) and not isinstance(names, str):
                return tuple(names)
    raise RequestError(
        f"{type(dataset).__name__} does not name its bands; name them, as bands=('red', 'green', 'blue')"
    )


def _image(sample: Mapping[str, Any], names: Sequence[str], number: int) -> NDArray[np.float32]:
    if "image" not in sample:
        raise RequestError(f"item {number} holds no image (found {', '.join(sample)}); choose a data set of images")
    image = np.asarray(sample["image"], np.float32)
    if image.ndim != 3 or len(image) != len(names):
        raise RequestError(
            f"item {number} has the shape {image.shape}, which is no image of the {len(names)} bands {', '.join(names)}; name "
            "its bands, or choose a data set of single images"
        )
    return image


def _numbers(image: NDArray[np.float32]) -> NDArray[Any]:
    """Digital numbers as the integers they were before torchgeo made floats of them, where they are."""
    whole = bool((image % 1 == 0).all()) and image.min() >= 0 and image.max() <= np.iinfo(np.uint16).max
    return image.astype(np.uint16) if whole else image


def _mask(mask: Any, shape: tuple[int, ...], number: int) -> NDArray[np.int32]:
    values = np.asarray(mask).squeeze()
    if values.shape != shape:
        raise RequestError(
            f"the mask of item {number} has {values.shape} cells, its image {shape}; choose another data set"
        )
    return values[None].astype(np.int32)


def _label(label: Any, classes: Sequence[str], number: int) -> str:
    values = np.asarray(label)
    if values.ndim or (classes and not 0 <= int(values) < len(classes)):
        raise RequestError(
            f"the label of item {number} is {label}, which is none of {len(classes)} classes; label them by hand"
        )
    return classes[int(values)] if classes else f"{float(values):g}"


def _write(
    path: Path,
    values: NDArray[Any],
    where: Where,
    nodata: float | None,
    names: Sequence[str] = (),
    units: Sequence[str] = (),
) -> None:
    about = dict(zip(("count", "height", "width"), values.shape, strict=True))
    crs, transform = where
    place = {} if transform is None else {"crs": crs, "transform": transform}
    if nodata is not None and math.isnan(nodata) and values.dtype.kind != "f":
        raise RequestError("ignore: a mask has whole numbers; name one")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # chips have no place, and say so
        with rasterio.open(
            path, "w", driver="GTiff", dtype=values.dtype.name, compress="deflate", nodata=nodata, **about, **place
        ) as dst:
            dst.write(values)
            if names:
                dst.descriptions = tuple(names)
            if units:
                dst.units = tuple(units)


def _table(path: Path, rows: Sequence[tuple[Any, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
