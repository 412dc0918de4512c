"""Which bands a scene's files hold, and which of them are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rasterio.enums import ColorInterp

from unlabeled.core.contracts import BadInput
from unlabeled.earth import handles
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.sensors import SENTINEL2, Band, SensorSpec


@dataclass(frozen=True)
class File:
    """One file of a scene. band: which one it is, where the path says it. name: for messages."""

    path: Path
    name: str
    band: str | None = None


@dataclass(frozen=True)
class Found:
    """One band of a file. index: from 1; band: what its sensor says of it."""

    file: File
    index: int
    channel: str
    band: Band | None


def bands(file: File, options: ReaderOptions, spec: SensorSpec | None) -> Iterator[Found]:
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
            yield Found(file, i + 1, name, None)
        elif spec.knows(name) or options.bands is None:
            band = spec.band(name, file.name)
            yield Found(file, i + 1, band.name, band)


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


def chosen(found: Sequence[Found], name: str, options: ReaderOptions, spec: SensorSpec | None) -> list[Found]:
    """The wanted bands: in the order of options.bands, else of the sensor, else of the file."""
    by_name: dict[str, Found] = {}
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
