"""From files to a Scene: which bands are wanted, and what their numbers mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import ColorInterp

from unlabeled.core.contracts import BadInput
from unlabeled.earth import grids, handles, offsets
from unlabeled.earth.offsets import Evidence
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.scene import Layer, Scene
from unlabeled.earth.sensors import SENTINEL2, Band, SensorSpec

_UNITS = {"reflectance": "1", "decibel": "dB", "decibels": "dB", "db": "dB", "kelvin": "K", "dn": "DN"}


@dataclass(frozen=True)
class File:
    """One file of a scene. band: which one it is, where the path says it. name: for messages."""

    path: Path
    name: str
    band: str | None = None


@dataclass(frozen=True)
class _Found:
    file: File
    index: int
    channel: str
    band: Band | None


def open_scene(
    files: Sequence[File], name: str, options: ReaderOptions, spec: SensorSpec | None, product: Evidence | None = None
) -> Scene:
    """The scene of these files. product: what the metadata of the whole product say.

    Raises BadInput, in one sentence that names file, fault and mend.
    """
    with handles.environment():
        chosen = _chosen([f for file in files for f in _bands(file, options, spec)], name, options, spec)
        sources = {f.file.path: handles.opened(f.file.path, f.file.name) for f in chosen}
        names = {f.file.path: f.file.name for f in chosen}
        own = {path: grids.own(src, names[path], options) for path, src in sources.items()}
        place = grids.target([where for where, _ in own.values()], name, options)
        layers = [_layer(f, handles.opened(f.file.path, f.file.name), options, spec, product) for f in chosen]
    direct = {path: straight and where.same(place) for path, (where, straight) in own.items()}
    layers = [replace(layer, same=direct[layer.path]) for layer in layers]
    resampled = {path for path, (where, _) in own.items() if not where.same(place)}
    _check_warp(layers, resampled, name, options)
    flags = []
    for path, (where, straight) in own.items():
        if not straight:
            flags.append("turned north up")
        if where.crs != place.crs:
            assert where.crs is not None and place.crs is not None
            flags.append(f"brought from {where.crs.to_string()} to {place.crs.to_string()}")
        elif path in resampled and not np.allclose(where.spacing, place.spacing, rtol=1e-6):
            flags.append(f"resampled from {where.spacing[0]:g} to {place.spacing[0]:g} {place.unit}")
    return Scene(
        place=place,
        layers=tuple(layers),
        source=options.source or (spec.name if spec else "image"),
        resampling=options.resampling if resampled else "nearest",
        flags=tuple(dict.fromkeys(flags)),
    )


def _bands(file: File, options: ReaderOptions, spec: SensorSpec | None) -> Iterator[_Found]:
    """Every band of a file under its canonical name. Raises BadInput where a band has none."""
    src = handles.opened(file.path, file.name)
    at = [i for i, what in enumerate(src.colorinterp) if what != ColorInterp.alpha]
    if file.band is not None:
        if len(at) != 1:
            raise BadInput(f"{file.name}: its path names one band and it holds {len(at)}; correct options.stack")
        names: Sequence[str] = [file.band]
    else:
        names = _names([src.descriptions[i] for i in at], file, options)
    for i, name in zip(at, names, strict=True):
        if spec is None:
            yield _Found(file, i + 1, name, None)
        elif spec.knows(name) or options.bands is None:
            band = spec.band(name, file.name)
            yield _Found(file, i + 1, band.name, band)


def _names(described: Sequence[str | None], file: File, options: ReaderOptions) -> Sequence[str]:
    n = len(described)
    if options.names is not None:
        if len(options.names) != n:
            raise BadInput(
                f"{file.name}: it has {n} bands, options.names gives {len(options.names)}; name each of them"
            )
        return options.names
    if all(described):
        return [str(d) for d in described]
    if options.bands is not None and len(options.bands) == n:
        return options.bands
    asked = f", and options.bands {len(options.bands)}" if options.bands else ""
    raise BadInput(
        f"{file.name}: it has {n} bands without names{asked}; name each of the {n}, in order, by options.names"
    )


def _chosen(found: Sequence[_Found], name: str, options: ReaderOptions, spec: SensorSpec | None) -> list[_Found]:
    """The wanted bands: in the order of options.bands, else of the sensor, else of the file."""
    by_name: dict[str, _Found] = {}
    for f in found:
        if f.channel in by_name:
            raise BadInput(f"{name}: band {f.channel} is there twice; remove one, or name its bands by options.names")
        by_name[f.channel] = f
    if spec is None and "B8A" in by_name:
        raise BadInput(
            f"{name}: band B8A is one of Sentinel-2, whose numbers need its rule; set options.sensor to {' or '.join(SENTINEL2)}"
        )
    if options.bands is None:
        return [by_name[n] for n in spec.names if n in by_name] if spec else list(by_name.values())
    wanted = [spec.band(b).name if spec else b for b in options.bands]
    missing = [b for b in wanted if b not in by_name]
    if missing:
        raise BadInput(
            f"{name}: band {', '.join(missing)} is missing (found {', '.join(by_name) or 'none of the sensor'}); correct "
            "options.bands or options.names"
        )
    return [by_name[b] for b in wanted]


def _layer(found: _Found, src: Any, options: ReaderOptions, spec: SensorSpec | None, product: Evidence | None) -> Layer:
    name, i = found.file.name, found.index - 1
    dtype = np.dtype(src.dtypes[i])
    if dtype.kind == "c":
        raise BadInput(f"{name}: its values are complex; write their power or amplitude into another file")
    scale, offset, unit = _meaning(found, src, dtype, options, spec, product)
    return Layer(
        channel=found.channel,
        path=found.file.path,
        name=name,
        index=found.index,
        dtype=dtype.name,
        unit=unit,
        scale=scale,
        offset=offset,
        nodata=_nodata(src.nodatavals[i], dtype, options, spec),
        masked=handles.masked(src),
    )


def _meaning(
    found: _Found,
    src: Any,
    dtype: np.dtype[Any],
    options: ReaderOptions,
    spec: SensorSpec | None,
    product: Evidence | None,
) -> tuple[float | None, float, str]:
    """(scale, offset, unit) of one band, each applied once: by the file's tags, by the product's rule, or none.

    Raises BadInput where the two disagree, or a unit is needed and nowhere said.
    """
    name, channel, band, i = found.file.name, found.channel, found.band, found.index - 1
    tags = (float(src.scales[i]), float(src.offsets[i]))
    tagged = tags != (1.0, 0.0)
    unit = _unit(channel, src.units[i], name, options)
    if band is None or band.scale is None:
        if spec and spec.units and unit not in spec.units:
            said = f"in {unit}" if unit else "in no stated unit"
            raise BadInput(
                f"{name}: {channel} is {said}, {spec.name} needs {' or '.join(spec.units)}; say options.units: "
                f"{{'*': {spec.units[0]}}} where it is so, or calibrate the file"
            )
        return (*tags, unit or "") if tagged else (None, 0.0, unit or "DN")
    assert spec is not None
    if options.check_range and dtype == np.uint8:
        raise BadInput(
            f"{name}: its numbers are uint8 (max 255), which looks like a true-colour image (TCI) and not like the "
            f"reflectance of {spec.name}; give the bands themselves"
        )
    if dtype.kind == "f" and not tagged:
        if unit == band.unit:
            return None, 0.0, unit
        if unit != "DN":
            raise BadInput(
                f"{name}: {channel} holds {dtype.name} numbers in {unit or 'no stated unit'}; say options.units: "
                f"{{'*': '{band.unit}'}} where they are {_word(band.unit)}, or DN where they are digital numbers"
            )
    scale, offset = band.scale, band.offset
    if spec.name in SENTINEL2:
        evidence = product or offsets.of_file(src.tags(), found.file.path)
        scale = 1 / evidence.quantification
        if tagged and np.isclose(tags[0], scale, rtol=1e-6):
            evidence = offsets.with_tags(evidence, channel, round(tags[1] / tags[0]), name)
        offset = offsets.add_offset(options.s2_offset, evidence, channel, name) * scale
    if tagged and not np.allclose(tags, (scale, offset), rtol=1e-6, atol=1e-9):
        raise BadInput(
            f"{name}: by its tags {channel} is DN * {tags[0]:g} + {tags[1]:g}, by the rule of {spec.name} DN * {scale:g} + "
            f"{offset:g}; correct the tags, or leave out options.sensor"
        )
    return scale, offset, band.unit


def _unit(channel: str, own: str | None, name: str, options: ReaderOptions) -> str | None:
    """As the file says, or options.units. Raises BadInput where they differ."""
    own = own and own.strip()
    own = _UNITS.get(own.casefold(), own) if own else None
    said = next((u for pattern, u in options.units.items() if fnmatchcase(channel, pattern)), None)
    said = _UNITS.get(said.casefold(), said) if said else None
    if own and said and own != said:
        raise BadInput(f"{name}: {channel} is in {own} by the file and in {said} by options.units; correct one of them")
    return own or said


def _word(unit: str) -> str:
    return {"1": "reflectance", "K": "kelvin"}[unit]


def _nodata(
    own: float | None, dtype: np.dtype[Any], options: ReaderOptions, spec: SensorSpec | None
) -> tuple[float, ...]:
    """Numbers that are no values: the option's alone, or the file's beside the product's (DN 0 of Sentinel-2)."""
    if options.nodata == "none":
        return ()
    if options.nodata is not None:
        return (options.nodata,)
    product = spec.nodata if spec and dtype.kind in "iu" else None
    return tuple(dict.fromkeys(v for v in (own, product) if v is not None))


def _check_warp(layers: Sequence[Layer], resampled: set[Path], name: str, options: ReaderOptions) -> None:
    """Raises BadInput where bringing files to the grid would make values that are none."""
    for layer in layers:
        if layer.masked and layer.nodata and not layer.same:
            raise BadInput(
                f"{layer.name}: it has a mask and a nodata value, and GDAL brings only one of them to another grid; write it "
                "with one"
            )
    if options.resampling == "nearest":
        return
    for layer in layers:
        if layer.path in resampled and layer.unit == "dB":
            raise BadInput(
                f"{name}: {layer.channel} is in dB, and a mean of dB is none of power; give power, or set "
                "options.resampling: nearest"
            )
    for path in resampled:
        if len({layer.nodata for layer in layers if layer.path == path}) > 1 or any(
            len(layer.nodata) > 1 for layer in layers if layer.path == path
        ):
            raise BadInput(
                f"{name}: it has several nodata values, which would smear on another grid; set options.nodata or "
                "options.resampling: nearest"
            )
