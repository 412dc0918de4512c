"""What torchgeo says of its weights: their names, sensor, bands, image size, and what was done to values before them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unlabeled.core.contracts import Constants, Incompatible, InputSpec, RequestError
from unlabeled.core.contracts.recipe import nearest
from unlabeled.earth.normalisers import FULL, ssl4eo_s1
from unlabeled.earth.sensors import SENSORS, SensorSpec

ANY = "+any-normaliser"
# the first words of torchgeo's names of weights
SENSOR_OF = {
    "SENTINEL2": "sentinel2-l1c",
    "SENTINEL1": "sentinel1",
    "LANDSAT_TM_TOA": "landsat5",
    "LANDSAT_ETM_TOA": "landsat7",
    "LANDSAT_ETM_SR": "landsat7-l2",
    "LANDSAT_OLI_TIRS_TOA": "landsat8",
    "LANDSAT_OLI_SR": "landsat8-l2",
}


def parts(given: str) -> tuple[str, bool, str]:
    """NAME[+any-normaliser][=FILE] as name, whether under any normaliser, and file or ""."""
    name, _, file = given.partition("=")
    return name.removesuffix(ANY), name.endswith(ANY), file


def under_any(given: str) -> str:
    """The same weights, under any normaliser."""
    name, _, file = parts(given)
    return f"{name}{ANY}" + (f"={file}" if file else "")


def entry_of(name: str) -> tuple[str, Any]:
    """torchgeo's name of the model, and its entry of these weights. Raises RequestError: no such weights, no torchgeo."""
    try:
        from torchgeo.models import get_model_weights, list_models
    except ImportError as error:
        raise RequestError(
            f"start: torchgeo:{name} needs torchgeo ({error}); pip install 'unlabeled-earth[torchgeo]'"
        ) from None
    known: dict[str, tuple[str, Any]] = {}
    for model in list_models():
        try:
            kinds = get_model_weights(model)
        except KeyError:  # a model without weights
            continue
        known |= {f"{kinds.__name__}.{short}": (model, entry) for short, entry in kinds.__members__.items()}
    if name not in known:
        raise RequestError(f"start: torchgeo:{nearest(name, list(known)).partition(', known:')[0]}")
    return known[name]


def sensor_of(entry: Any, what: str) -> SensorSpec:
    """The sensor whose bands these weights read. Raises Incompatible where torchgeo does not say."""
    found = [sensor for prefix, sensor in SENSOR_OF.items() if entry.name.startswith(prefix)]
    if not found or not entry.meta.get("bands"):
        raise Incompatible(f"torchgeo does not say which bands {what} reads; choose other weights")
    return SENSORS[found[0]]


def size_of(given: str) -> int | None:
    """`pretraining_size` of the weights that a start names."""
    return pretraining_size(entry_of(parts(given)[0])[1])


def pretraining_size(entry: Any) -> int | None:
    """Cells along an axis of the images that torchgeo says these weights are fed; None where it does not say."""
    sizes = [s.size for s in _steps(entry.transforms) if type(s).__name__ in ("Resize", "CenterCrop")]
    size = entry.meta.get("img_size", sizes[-1] if sizes else None)
    return int(size if isinstance(size, int) else size[0]) if size else None


def expected(entry: Any, bands: tuple[str, ...], sensor: SensorSpec, spec: InputSpec, what: str) -> Constants:
    """What the pretraining of these weights did to the values of the contract's channels, in the contract's units."""
    told = {"sentinel1": {"dB"}, "sentinel2-l1c": {"DN", "1"}}.get(sensor.name, {"DN"})
    if other := sorted(set(spec.units) - told):
        raise Incompatible(
            f"{what} reads {' or '.join(sorted(told))}, the data are in {other[0] or 'no unit'}; convert them, or name the "
            f"weights {what}{ANY}"
        )
    if sensor.name == "sentinel1" and entry.meta.get("repo", "").endswith("/SSL4EO-S12"):
        # torchgeo hands these weights out with a z-score; their authors trained them on mean +- 2 deviations as [0, 1]
        return ssl4eo_s1(spec, "")
    offset, scale = [0.0] * len(bands), [1.0] * len(bands)
    for step in _steps(entry.transforms):
        if type(step).__name__ == "Normalize":
            mean, deviation = (_each(v, len(bands)) for v in (step.mean, step.std))
            # ((x - o) / s - m) / d = (x - (o + s m)) / (s d)
            offset = [o + s * m for o, s, m in zip(offset, scale, mean, strict=True)]
            scale = [s * d for s, d in zip(scale, deviation, strict=True)]
        elif type(step).__name__ not in ("Resize", "CenterCrop", "Identity"):
            raise Incompatible(
                f"{what}: torchgeo puts a {type(step).__name__} before it, which is no offset and scale; name the weights "
                f"{what}{ANY} to go on without"
            )
    canonical = [sensor.band(c).name if sensor.knows(c) else c for c in spec.channels]
    at = [bands.index(c) for c in canonical]
    factor = [1 / FULL if unit == "1" else 1.0 for unit in spec.units]
    return Constants(
        offset=tuple(offset[i] * f for i, f in zip(at, factor, strict=True)),
        scale=tuple(scale[i] * f for i, f in zip(at, factor, strict=True)),
    )


def _steps(transforms: Any) -> list[Any]:
    return list(transforms) if isinstance(transforms, Iterable) else [transforms]


def _each(values: Any, n: int) -> list[float]:
    found = [float(v) for v in values]
    return found * n if len(found) == 1 else found
