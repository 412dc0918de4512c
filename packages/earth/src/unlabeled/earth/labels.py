"""Labels of every cell, in the field's own formats: land-cover rasters, polygons, points."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from unlabeled.core.contracts import RequestError
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.manifest import Row
from unlabeled.core.downstream.labels import Cells
from unlabeled.core.evaluation.labels import UNLABELLED
from unlabeled.earth.label_rasters import Mask, Raster, named
from unlabeled.earth.label_shapes import is_points, read_points, read_polygons
from unlabeled.earth.read import Reader
from unlabeled.earth.scene import Place

log = logging.getLogger(__name__)

RASTERS = (".tif", ".tiff", ".vrt", ".jp2", ".img")
VECTORS = (".geojson", ".json", ".gpkg", ".shp", ".fgb", ".parquet")


@dataclass(frozen=True)
class Found:
    """What a source of labels says of the records: one mask for each, and the names of codes, none: the codes themselves.

    source  of each mask, to be named in errors
    """

    masks: Sequence[Mask | None]
    sources: Sequence[Path]
    names: dict[int, str]


def cells(labels: Path, corpus: Corpus) -> Cells | None:
    """The labels of the cells of every record, read where they are asked for; None: a CSV that the core reads.

    labels  a raster, or a folder of rasters named as the scenes: codes on the scenes' own grid (or any, with the reader's
            option align_labels=nearest), nodata is no label, names from `classes.csv` (code, name) beside it, its tags
            CLASS_code or its category names; polygons with the column `label`: a cell has that of the polygon its centre
            lies in; or a CSV of points with x, y, label and optionally crs

    Raises RequestError, in one sentence, for labels that do not fit the records or hold fewer than two classes.
    """
    suffix = labels.suffix.lower()
    if suffix in (*RASTERS, *VECTORS) and not labels.exists():
        raise RequestError(f"{labels}: no such file of labels; name a raster, polygons, or a CSV of points")
    places = [reader_of(corpus).place(corpus.file(row), row.part) for row in corpus.rows]
    if labels.is_dir():
        found = _folder(labels, corpus, places)
    elif suffix in RASTERS:
        found = _rasters([labels] * len(places), corpus, places)
    elif suffix in VECTORS or is_points(labels):
        classes, masks = (read_points if suffix == ".csv" else read_polygons)(labels, places)
        found = Found(masks, [labels] * len(masks), dict(enumerate(classes)))
    else:
        return None
    return _scanned(labels, found, corpus)


def reader_of(corpus: Corpus) -> Reader:
    assert isinstance(corpus.reader, Reader)
    return corpus.reader


def scene_key(corpus: Corpus, row: Row) -> str:
    """The key of the scene that a record is of: its own, or that before #X_Y where it is a block."""
    file = corpus.file(row)
    block = reader_of(corpus).place(file, row.part) != reader_of(corpus).scene(file).place
    return row.key.rpartition("#")[0] if block else row.key


def _folder(folder: Path, corpus: Corpus, places: Sequence[Place]) -> Found:
    """A raster for each scene: named by its key, or by the last part of it."""
    rasters = {
        p.relative_to(folder).with_suffix("").as_posix(): p
        for p in sorted(folder.rglob("*"))
        if p.suffix.lower() in RASTERS
    }
    if not rasters:
        raise RequestError(f"{folder} holds no raster of labels ({', '.join(RASTERS)}); put one in for each scene")
    keys = {row.file: scene_key(corpus, row) for row in corpus.rows}
    of = {file: rasters.get(key) or rasters.get(PurePosixPath(key).name) for file, key in keys.items()}
    if not any(of.values()):
        first = next(iter(rasters))
        close = difflib.get_close_matches(first, list(keys.values()), n=1, cutoff=0.0)[0]
        raise RequestError(f"{folder}: no raster has the name of a scene; {first!r} is nearest to the scene {close!r}")
    unused = set(rasters.values()) - set(of.values())
    if unused:
        log.warning("%s: %d of %d rasters have the name of no scene", folder.name, len(unused), len(rasters))
    return _rasters([of[row.file] for row in corpus.rows], corpus, places)


def _rasters(paths: Sequence[Path | None], corpus: Corpus, places: Sequence[Place]) -> Found:
    nearest = reader_of(corpus).options.align_labels == "nearest"
    rasters = {path: Raster(path) for path in dict.fromkeys(paths) if path is not None}
    names: dict[int, str] = {}
    for path, raster in rasters.items():
        for code, name in raster.names.items():
            if names.setdefault(code, name) != name:
                raise RequestError(
                    f"{path}: {code} is {name!r} here and {names[code]!r} elsewhere; give one classes.csv"
                )
    masks = [
        None if path is None else rasters[path].on(place, row.file, nearest)
        for path, place, row in zip(paths, places, corpus.rows, strict=True)
    ]
    return Found(masks, [path or Path() for path in paths], names)


def _scanned(labels: Path, found: Found, corpus: Corpus) -> Cells:
    """Every record's labels looked at once: which classes there are, and which records hold any."""
    used: dict[int, Path] = {}
    masks: list[Mask | None] = []
    for i, (mask, source) in enumerate(zip(found.masks, found.sources, strict=True)):
        if mask is not None and mask.shape != corpus.shape(i):
            raise RequestError(
                f"{corpus.rows[i].file} is brought from {mask.shape} to {corpus.shape(i)} cells by a conversion, and labels "
                "stay on the grid of the reader; set the reader's option resolution in its place"
            )
        codes = [] if mask is None else sorted(set(np.unique(mask[()]).tolist()) - {UNLABELLED})
        masks.append(mask if codes else None)
        for code in codes:
            used.setdefault(code, source)
    if not used:
        raise RequestError(
            f"{labels}: no labelled cell lies in any of the {len(masks)} records; look at its place and CRS"
        )
    classes = named(used, found.names)
    if len(classes) < 2:
        raise RequestError(f"{labels}: the labelled cells have 1 class, and two are needed; add labels")
    # a class list with names, as the codes that stand for it in the rasters
    return Cells(tuple(classes.values()), np.array(list(classes), np.int64), tuple(masks))
