"""Starts: the weights that training or fine-tuning begins from, whoever made them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
from timm.models import is_model, is_model_pretrained, list_models, list_pretrained
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from unlabeled.core.build import make_encoder, named
from unlabeled.core.bundle.foreign import ANCHORS, FORMATS, MARKS, conv, vit
from unlabeled.core.bundle.foreign.files import SUFFIXES, finite, read_tensors, unwrapped
from unlabeled.core.bundle.foreign.torchvision_resnet import net_of
from unlabeled.core.bundle.foreign.vit import from_state
from unlabeled.core.bundle.load import LoadReport, fill, load_bundle
from unlabeled.core.contracts import Absent, Domain, Incompatible, InputSpec, RequestError, load
from unlabeled.core.contracts.recipe import Named, nearest, validated
from unlabeled.core.data.groups import key_id, project_key
from unlabeled.core.files import sha256
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.unet import UNet

log = logging.getLogger(__name__)

RANDOM = "random"
KINDS = "a bundle's folder, timm:NAME, a weight file or FORMAT:FILE"


def start_encoder(start: str, domain: Domain, specs: Mapping[str, InputSpec], encoder: Named, seed: int) -> Encoder:
    """The encoder to begin from, with its `.report`: what matched, what was adapted and what the weights are.

    start    `random`, a bundle's folder, `timm:NAME`, a weight file, or `FORMAT:FILE` (see `foreign.FORMATS`)
    specs    the contract of the data; a bundle's own must be the same but for its normaliser
    encoder  what `random` builds. Other weights bring their sizes; what they leave open (heads, grid, pool) is taken
             from its options, and an option that they contradict is in `.report.overruled`. Of a U-Net, weights that are
             not a U-Net's are those of its inner encoder. Adapters that are asked for and that the weights lack are new

    Raises RequestError (no such start), Absent (weights that are not on this machine and cannot be fetched),
    Incompatible (other channels, units or spacing; less than 100 % of the encoder; nothing our encoders can express).
    """
    if start == RANDOM:
        return make_encoder(encoder.name, encoder.options, domain, specs, seed)
    whole, encoder = encoder, _inner(encoder)
    kind, _, rest = start.partition(":")
    if kind == "timm" and not _is_file(rest):
        made = _from_timm(rest, specs, encoder)
    elif kind in domain.starts and rest:
        made = load(domain.starts[kind])(rest, specs, encoder)
    elif kind in FORMATS and rest:
        made = _from_file(Path(rest), kind, domain, specs, encoder)
    elif Path(start).is_dir():
        made = _from_bundle(Path(start), domain, specs)
    elif Path(start).is_file():
        made = _from_file(Path(start), None, domain, specs, encoder)
    elif rest and not _is_file(start):
        raise RequestError(f"start: {nearest(kind, [*FORMATS, *domain.starts, RANDOM])}; give {KINDS}")
    else:
        raise Absent(f"start: {start} is absent here; put it there, or give {KINDS}")
    made = _adapted(made, encoder, domain, seed)
    if whole is not encoder and not isinstance(made, UNet):
        made = _around(made, whole, domain, specs, seed)
    assert made.named is not None
    overruled = tuple(
        f"{k}: {made.named.get(k)}, not {v}"
        for k, v in {"name": whole.name, **whole.options}.items()
        if not _same(made.named.get(k), v)
    )
    made.report = replace(made.report, overruled=overruled)
    for line in (*made.report.adapted, *(f"the weights decide on {o}" for o in overruled)):
        log.info("start %s: %s", made.report.start["start"], line)
    return made.eval()


def _inner(encoder: Named) -> Named:
    """What weights are wanted for: the inner encoder of a U-Net, else the encoder itself."""
    return validated(UNet.Options, encoder.options, "encoder").encoder if encoder.name == "unet" else encoder


def _adapted(made: Encoder, encoder: Named, domain: Domain, seed: int) -> Encoder:
    """`made` with the adapters that are asked for, where its weights have none: they are zero, so it says what it said."""
    width = encoder.options.get("adapter", 0)
    if not isinstance(made, TokenEncoder) or not width or made.options.adapter:
        return made
    options = {**made.options.model_dump(), "adapter": width}
    out = make_encoder("tokens", options, domain, made.specs, seed)
    fill(out, made.state_dict())
    out.bundle, report = made.bundle, made.report
    out.report = replace(report, adapted=(*report.adapted, "the adapters are new, and zero"))
    return out


def _around(inner: Encoder, encoder: Named, domain: Domain, specs: Mapping[str, InputSpec], seed: int) -> Encoder:
    """The U-Net that is asked for around these weights; its decoder has random ones."""
    made = make_encoder(encoder.name, {**encoder.options, "encoder": inner.named}, domain, specs, seed)
    assert isinstance(made, UNet)
    fill(made.encoder, inner.state_dict())
    made.bundle, report = inner.bundle, inner.report
    made.report = replace(report, adapted=(*report.adapted, "they are the inner encoder's; the decoder's are random"))
    return made


def _from_bundle(path: Path, domain: Domain, specs: Mapping[str, InputSpec]) -> Encoder:
    encoder = load_bundle(path)
    if encoder.bundle.about["domain"] != domain.name:
        raise Incompatible(f"{path} is a bundle for {encoder.bundle.about['domain']}, the data are for {domain.name}")
    compare(encoder.specs, specs, f"start: {path}")
    adapted = tuple(
        f"{n}: values are normalised with the constants of these data, not with the bundle's"
        for n in specs
        if encoder.specs[n].normaliser != specs[n].normaliser
    )
    if encoder.bundle.about["key"] != key_id(project_key()):
        adapted += ("its groups are hashed with another project key: nobody can tell which of these data it has seen",)
    encoder.specs = {n: specs[n] for n in encoder.specs}
    about = encoder.bundle.about
    encoder.report = replace(
        encoder.report, adapted=adapted, start={"start": f"bundle {path.name}", "sha256": about["sha256"]}
    )
    return encoder


def compare(have: Mapping[str, InputSpec], want: Mapping[str, InputSpec], what: str) -> None:
    """Raises Incompatible where `want`, the data's contract, is another one than `have`, whatever the normaliser."""
    if set(have) != set(want):
        raise Incompatible(
            f"{what} reads the inputs {', '.join(have)}, the data have {', '.join(want)}; name them alike"
        )
    for name, own in have.items():
        other = want[name]
        for part, mend in (
            ("layout", "use another reader"),
            ("axes", "use another reader"),
            ("channels", "bring them to this order with a conversion under data.conversions, or with convert: [order]"),
            ("units", "bring them to these units with a conversion under data.conversions, or with convert: [units]"),
            ("unit", "convert the files"),
            ("spacing", "resample them with a conversion under data.conversions, or with convert: [rate]"),
        ):
            ours, theirs = getattr(own, part), getattr(other, part)
            if part == "spacing" and (ours is None or (theirs is not None and _close(ours, theirs))):
                continue
            if ours != theirs:
                raise Incompatible(
                    f"{what} has {part} {_list(ours)} for {name!r}, the data have {_list(theirs)}; {mend}"
                )


def _from_timm(name: str, specs: Mapping[str, InputSpec], encoder: Named) -> Encoder:
    """timm's model of this name with its published weights."""
    base, dot, _ = name.partition(".")
    if not is_model(base):
        raise RequestError(f"start: timm:{name}: {_short(nearest(base, list_models()))}")
    if not is_model_pretrained(name):
        tags = list_pretrained(f"{base}.*")
        raise RequestError(
            f"start: timm:{name}: {nearest(name, tags) if dot and tags else 'timm has no weights of it'}"
        )
    given, spec = _image(specs)
    log.info("start timm:%s: fetching its weights, where they are not on this machine yet", name)
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except Exception as error:  # every library of the way down has its own error for a host it cannot reach
        first = " ".join(str(error).split())[:120]
        raise Absent(
            f"the weights of timm:{name} are absent here and cannot be fetched ({type(error).__name__}: {first}); "
            "bring their file to this machine and name it, as timm:FILE"
        ) from None
    notes: list[str] = []
    about: Any = model.pretrained_cfg
    mean, deviation = about.get("mean"), about.get("std")
    if mean is not None:
        notes.append(
            f"values are normalised by the data's contract; these weights saw mean {mean}, deviation {deviation}"
        )
    identity = {"start": f"timm:{name}", "sha256": _hash(model)}
    if isinstance(model, VisionTransformer):
        return _reported(_vit(model, given, spec, encoder, notes), notes, identity)
    return _reported(_conv(base, model.state_dict(), given, spec, encoder, notes), notes, identity)


def _from_file(path: Path, kind: str | None, domain: Domain, specs: Mapping[str, InputSpec], encoder: Named) -> Encoder:
    if not path.is_file():
        raise Absent(f"start: {path} is absent here; put the weight file there")
    notes: list[str] = []
    state = read_tensors(path, notes)
    identity = {"start": f"{kind or 'file'}:{path.name}", "sha256": sha256(path)}
    if kind is None:
        kind = next((k for k, mark in MARKS.items() if any(n == mark or n.endswith("." + mark) for n in state)), None)
        if kind is None:
            return _own(path, state, domain, specs, encoder, notes, identity)
        notes.append(f"read as {kind}, by the names of its tensors")
    state = load(FORMATS[kind])(unwrapped(state, ANCHORS[kind], notes), notes)
    finite(state, path)
    name, spec = _image(specs)
    try:
        if kind == "torchvision-resnet":
            made = _conv(net_of(state), state, name, spec, encoder, notes)
        else:
            made = _vit(from_state(state, encoder.options, notes), name, spec, encoder, notes)
    except Incompatible as error:
        raise Incompatible(f"{path}: {error}") from None
    return _reported(made, notes, identity)


def _own(
    path: Path,
    state: Mapping[str, Tensor],
    domain: Domain,
    specs: Mapping[str, InputSpec],
    encoder: Named,
    notes: list[str],
    identity: Mapping[str, str],
) -> Encoder:
    """The weights of one of our own encoders, without a bundle around them."""
    bare = not any(".adapter." in name for name in state)
    options = {k: v for k, v in encoder.options.items() if not (bare and k == "adapter")}
    made = make_encoder(encoder.name, options, domain, specs, seed=0)
    state = unwrapped(state, next(iter(made.state_dict())), notes)
    finite(state, path)
    report = fill(made, state)
    if report.missing or report.unexpected or report.reshaped:
        raise Incompatible(
            f"{path}: {report}; give the encoder it was saved from, or name the format of the file ({', '.join(FORMATS)})"
        )
    notes.append("the file says nothing of channels, units and spacing: those of the data are taken on trust")
    made.report = replace(report, adapted=tuple(notes), start=identity)
    return made


def _image(specs: Mapping[str, InputSpec]) -> tuple[str, InputSpec]:
    if len(specs) != 1:
        raise Incompatible(
            f"these weights read one image, the data have the inputs {', '.join(specs)}; use one of them"
        )
    ((name, spec),) = specs.items()
    if spec.layout != "dense" or spec.rank != 2:
        axes = ", ".join(spec.axes)
        raise Incompatible(
            f"these weights read images of two axes, {name!r} is {spec.layout} over {axes}; choose others"
        )
    return name, spec


def _vit(model: VisionTransformer, name: str, spec: InputSpec, encoder: Named, notes: list[str]) -> Encoder:
    made = vit.encoder_of(model, name, spec, encoder.options, notes)
    made.named = named("tokens", made.options)
    return made


def _conv(
    net: str, state: Mapping[str, Tensor], name: str, spec: InputSpec, encoder: Named, notes: list[str]
) -> Encoder:
    made = conv.encoder_of(net, state, name, spec, encoder.options if encoder.name == "timm" else {}, notes)
    made.named = named("timm", made.options)
    return made


def _reported(made: Encoder, notes: list[str], identity: Mapping[str, str]) -> Encoder:
    made.report = LoadReport(tuple(made.state_dict()), adapted=tuple(notes), start=identity)
    return made


def _hash(model: nn.Module) -> str:
    """SHA-256 of names and values, the same whatever file they came in."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _is_file(text: str) -> bool:
    return Path(text).is_file() or Path(text).suffix in SUFFIXES


def _close(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return len(a) == len(b) and all(abs(x - y) <= 1e-3 * abs(x) for x, y in zip(a, b, strict=True))


def _list(value: Any) -> str:
    return (
        ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in value)
        if isinstance(value, tuple)
        else str(value)
    )


def _same(have: Any, want: Any) -> bool:
    """Lists are tuples, and what is given once holds for every input."""
    if isinstance(have, Mapping):
        return all(_same(v, want.get(k, v) if isinstance(want, Mapping) else want) for k, v in have.items())
    if isinstance(have, list | tuple) and isinstance(want, list | tuple):
        return len(have) == len(want) and all(map(_same, have, want))
    return bool(have == want)


def _short(sentence: str) -> str:
    """A thousand names are no help."""
    return sentence if len(sentence) < 200 else sentence.partition(", known:")[0] + " to timm"
