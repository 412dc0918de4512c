"""Weights of torchgeo as a start: `torchgeo:NAME`, with the guard that they are fed as they were in pretraining.

    torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO                   fetched by torchgeo's own address, or found where it keeps it
    torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO=FILE              the same weights from a file on this machine
    torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO+any-normaliser    whatever `data.normaliser` does; every report then says so

Another normaliser than the one of pretraining moved published kNN scores by tens of points (Corley et al. 2024: MoCo on
EuroSAT 94.1 under its own, 65.8 under z-scores), and nothing else would tell.
"""

from __future__ import annotations

from collections.abc import Mapping
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
from unlabeled.core.contracts.recipe import Named
from unlabeled.core.files import sha256
from unlabeled.core.nn.base import Encoder
from unlabeled.earth import domain
from unlabeled.earth.normalisers import same
from unlabeled.earth.sensors import SensorSpec
from unlabeled.earth.torchgeo_entries import ANY, entry_of, expected, parts, pretraining_size, sensor_of


def start(given: str, specs: Mapping[str, InputSpec], encoder: Named) -> Encoder:
    """The encoder of torchgeo's weights NAME[+any-normaliser][=FILE], for data of this contract.

    Raises RequestError (no such weights, no torchgeo), Absent (they can be neither found nor fetched), Incompatible (other
    bands, another normaliser, a file that is not these weights to the last tensor, an architecture we have not).
    """
    name, anyhow, file = parts(given)
    model, entry = entry_of(name)
    what = f"torchgeo:{name}"
    if not model.startswith(("resnet", "vit_")):
        raise Incompatible(
            f"{what} is a {model}; our encoders hold torchgeo's ResNets and plain ViTs, choose one of these"
        )
    if len(specs) != 1:
        raise Incompatible(f"{what} reads one image, the data have the inputs {', '.join(specs)}; use one of them")
    ((given_as, spec),) = specs.items()
    sensor = sensor_of(entry, what)
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
