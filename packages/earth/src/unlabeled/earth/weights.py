"""Weights of torchgeo as a start: `torchgeo:NAME`, with the guard that they are fed as they were in pretraining.

    torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO                   fetched by torchgeo's own address, or found where it keeps it
    torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO=FILE              the same weights from a file on this machine
    torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO+any-normaliser    whatever `data.normaliser` does; every report then says so

Another normaliser than the one of pretraining moved published kNN scores by tens of points (Corley et al. 2024: MoCo on
EuroSAT 94.1 under its own, 65.8 under z-scores), and nothing else would tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from torch import Tensor, hub

from unlabeled.core.build import named
from unlabeled.core.bundle.foreign import ANCHORS, FORMATS, conv, vit
from unlabeled.core.bundle.foreign.files import finite, read_tensors, unwrapped
from unlabeled.core.bundle.foreign.torchvision_resnet import net_of
from unlabeled.core.bundle.load import LoadReport
from unlabeled.core.contracts import Absent, Constants, Incompatible, InputSpec, RequestError, load
from unlabeled.core.contracts.recipe import Named, nearest
from unlabeled.core.files import sha256
from unlabeled.core.nn.base import Encoder
from unlabeled.earth import domain
from unlabeled.earth.normalisers import FULL, same, ssl4eo_s1
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


def start(given: str, specs: Mapping[str, InputSpec], encoder: Named) -> Encoder:
    """The encoder of torchgeo's weights NAME[+any-normaliser][=FILE], for data of this contract.

    Raises RequestError (no such weights, no torchgeo), Absent (they can be neither found nor fetched), Incompatible (other
    bands, another normaliser, a file that is not these weights to the last tensor, an architecture we have not).
    """
    name, anyhow, file = parts(given)
    model, entry = _entry(name)
    what = f"torchgeo:{name}"
    if not model.startswith(("resnet", "vit_")):
        raise Incompatible(
            f"{what} is a {model}; our encoders hold torchgeo's ResNets and plain ViTs, choose one of these"
        )
    if len(specs) != 1:
        raise Incompatible(f"{what} reads one image, the data have the inputs {', '.join(specs)}; use one of them")
    ((given_as, spec),) = specs.items()
    sensor = _sensor(entry, what)
    bands = tuple(sensor.band(b).name if sensor.knows(b) else b for b in entry.meta["bands"])
    channels = tuple(sensor.band(c).name if sensor.knows(c) else c for c in spec.channels)
    if sorted(bands) != sorted(channels):
        raise Incompatible(
            f"{what} reads the bands {', '.join(bands)} of {sensor.name}, the data have {', '.join(spec.channels)}; name these, "
            "and no other, under data.options.bands"
        )
    read = tuple(spec.channels[channels.index(b)] for b in bands)
    notes = []
    if not anyhow:
        check_normaliser(entry, bands, sensor, spec, what)
    else:
        notes.append("taken under whatever normaliser the data have, which these weights may never have seen")
    size = pretraining_size(entry)
    if size:
        notes.append(f"pretrained on {size} x {size} cells: images of another size give other features, see `inputs`")
    path = Path(file) if file else _fetched(entry, what)
    if not path.is_file():
        raise Absent(f"start: {path} is absent here; put the file of {what} there")
    state = _state(path, model, notes)
    try:
        made = _encoder(model, state, given_as, spec, encoder, notes, read)
    except Incompatible as error:
        raise Incompatible(f"{path.name} is not {what}: {error}") from None
    identity = {"start": what + (ANY if anyhow else ""), "sha256": sha256(path)}
    made.report = LoadReport(tuple(made.state_dict()), adapted=tuple(notes), start=identity)
    return made


def parts(given: str) -> tuple[str, bool, str]:
    """NAME[+any-normaliser][=FILE] as name, whether under any normaliser, and file or ""."""
    name, _, file = given.partition("=")
    return name.removesuffix(ANY), name.endswith(ANY), file


def under_any(given: str) -> str:
    """The same weights, under any normaliser."""
    name, _, file = parts(given)
    return f"{name}{ANY}" + (f"={file}" if file else "")


def size_of(given: str) -> int | None:
    """`pretraining_size` of the weights that a start names."""
    return pretraining_size(_entry(parts(given)[0])[1])


def _encoder(
    model: str,
    state: Mapping[str, Tensor],
    name: str,
    spec: InputSpec,
    encoder: Named,
    notes: list[str],
    read: tuple[str, ...],
) -> Encoder:
    if model.startswith("resnet"):
        net = conv.encoder_of(model, state, name, spec, _own(encoder, "timm"), notes, read)
        net.named = named("timm", net.options)
        return net
    options = _own(encoder, "tokens")
    tokens = vit.encoder_of(vit.from_state(state, options, notes), name, spec, options, notes, read)
    tokens.named = named("tokens", tokens.options)
    return tokens


def check_normaliser(entry: Any, bands: tuple[str, ...], sensor: SensorSpec, spec: InputSpec, what: str) -> None:
    """Raises Incompatible where the contract normalises otherwise than these weights' pretraining did."""
    right = expected(entry, bands, sensor, spec, what)
    constants = spec.normaliser.constants or {"": Constants(offset=(0.0,) * spec.width, scale=(1.0,) * spec.width)}
    wrong = [source for source, found in constants.items() if not same(found, right)]
    if not wrong:
        return
    fitting = []
    for name, target in domain.normalisers.items():
        try:
            if all(same(load(target)(spec, source), right) for source in constants):
                fitting.append(name)
        except RequestError:  # it has no constants for these bands
            continue
    found = constants[wrong[0]]
    mend = f"set data.normaliser: {fitting[0]}" if fitting else "no normaliser of ours does this"
    raise Incompatible(
        f"{what} saw {spec.channels[0]} as (x - {right.offset[0]:g}) / {right.scale[0]:g}, the contract's normaliser "
        f"{spec.normaliser.method!r} makes (x - {found.offset[0]:g}) / {found.scale[0]:g} of it; {mend}, or name the weights "
        f"{what}{ANY}"
    )


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


def pretraining_size(entry: Any) -> int | None:
    """Cells along an axis of the images that torchgeo says these weights are fed; None where it does not say."""
    sizes = [s.size for s in _steps(entry.transforms) if type(s).__name__ in ("Resize", "CenterCrop")]
    size = entry.meta.get("img_size", sizes[-1] if sizes else None)
    return int(size if isinstance(size, int) else size[0]) if size else None


def _entry(name: str) -> tuple[str, Any]:
    """torchgeo's name of the model, and its entry of these weights."""
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


def _sensor(entry: Any, what: str) -> SensorSpec:
    found = [sensor for prefix, sensor in SENSOR_OF.items() if entry.name.startswith(prefix)]
    if not found or not entry.meta.get("bands"):
        raise Incompatible(f"torchgeo does not say which bands {what} reads; choose other weights")
    return SENSORS[found[0]]


def _fetched(entry: Any, what: str) -> Path:
    """The file where torch keeps what it fetched, fetched now where it is not there."""
    path = Path(hub.get_dir()) / "checkpoints" / Path(urlparse(entry.url).path).name
    if path.is_file():
        return path
    prefix = hub.HASH_REGEX.search(path.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        hub.download_url_to_file(entry.url, str(path), prefix.group(1) if prefix else None, progress=False)
    except (OSError, RuntimeError) as error:
        first = " ".join(str(error).split())[:120]
        raise Absent(
            f"the weights of {what} are absent here and cannot be fetched ({type(error).__name__}: {first}); bring the file "
            f"{path.name} to this machine and name it, as {what}=FILE"
        ) from None
    return path


def _state(path: Path, model: str, notes: list[str]) -> dict[str, Tensor]:
    """The tensors of the encoder in the file, by timm's names."""
    kind = "torchvision-resnet" if model.startswith("resnet") else "timm"
    state = load(FORMATS[kind])(unwrapped(read_tensors(path, notes), ANCHORS[kind], notes), notes)
    finite(state, path)
    if kind == "torchvision-resnet":
        if net_of(state) != model:
            raise Incompatible(f"{path.name} holds a {net_of(state)}, not a {model}; name the file of these weights")
        _all_known(state, model, path)
    return dict(state)


def _all_known(state: Mapping[str, Tensor], model: str, path: Path) -> None:
    import timm
    import torch

    with torch.device("meta"):
        own = timm.create_model(model, num_classes=0).state_dict()
    if rest := [n for n in state if n not in own]:
        raise Incompatible(f"{path.name} holds {rest[0]}, which {model} has not; name the file of these weights")


def _own(encoder: Named, name: str) -> dict[str, Any]:
    """The options that the recipe gives to an encoder of this kind; those of another kind say nothing to it."""
    return encoder.options if encoder.name == name else {}


def _steps(transforms: Any) -> list[Any]:
    return list(transforms) if isinstance(transforms, Iterable) else [transforms]


def _each(values: Any, n: int) -> list[float]:
    found = [float(v) for v in values]
    return found * n if len(found) == 1 else found
