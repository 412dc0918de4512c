"""From files to a Scene: what the numbers of each band mean, and what happens to them on the way to the grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from unlabeled.core.contracts import BadInput
from unlabeled.earth import grids, handles, offsets
from unlabeled.earth.bands import File, Found, bands, chosen
from unlabeled.earth.offsets import Evidence
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.scene import Layer, Scene
from unlabeled.earth.sensors import SENTINEL2, SensorSpec

_UNITS = {"reflectance": "1", "decibel": "dB", "decibels": "dB", "db": "dB", "kelvin": "K", "dn": "DN"}


def open_scene(
    files: Sequence[File], name: str, options: ReaderOptions, spec: SensorSpec | None, product: Evidence | None = None
) -> Scene:
    """The scene of these files. product: what the metadata of the whole product say.

    Raises BadInput, in one sentence that names file, fault and mend.
    """
    with handles.environment():
        wanted = chosen([f for file in files for f in bands(file, options, spec)], name, options, spec)
        sources = {f.file.path: handles.opened(f.file.path, f.file.name) for f in wanted}
        names = {f.file.path: f.file.name for f in wanted}
        own = {path: grids.own(src, names[path], options) for path, src in sources.items()}
        place = grids.target([where for where, _ in own.values()], name, options)
        layers = [_layer(f, handles.opened(f.file.path, f.file.name), options, spec, product) for f in wanted]
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


def _layer(found: Found, src: Any, options: ReaderOptions, spec: SensorSpec | None, product: Evidence | None) -> Layer:
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
    found: Found,
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
