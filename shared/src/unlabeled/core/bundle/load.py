"""Read a bundle: with a report, and never silently less than all of the encoder."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from unlabeled.core.build import make_encoder
from unlabeled.core.bundle.fingerprint import fingerprint
from unlabeled.core.bundle.foreign.files import finite
from unlabeled.core.bundle.save import FORMAT
from unlabeled.core.contracts import Incompatible, InputSpec, RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Data, Evaluation
from unlabeled.core.files import sha256
from unlabeled.core.nn.base import Encoder


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors: matched, missing from the file, unexpected in the file, of another shape or kind.

    adapted    what was changed on the way, one line each
    overruled  options of the encoder that were asked for, and that the weights have otherwise
    start      what the weights are: their name and the SHA-256 of their file, or of their values where there is none
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    reshaped: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    overruled: tuple[str, ...] = ()
    start: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing) + len(self.reshaped)
        rest = "; ".join(f"{k}: {', '.join(v)}" for k, v in vars(self).items() if k not in ("matched", "start") and v)
        return f"{len(self.matched)} of {total} tensors matched{'; ' + rest if rest else ''}"


@dataclass(frozen=True)
class Bundle:
    """What `bundle.json` says, checked."""

    path: Path
    about: Mapping[str, Any]
    specs: Mapping[str, InputSpec]

    @property
    def groups(self) -> frozenset[str]:
        return frozenset(self.about["groups"])

    def data(self, path: Path, **changes: Any) -> Data:
        """How this bundle reads a folder: the options, conversions and windows it was trained with."""
        return Data(**{**self.about["recipe"]["data"], "path": path, **changes})

    @property
    def evaluation(self) -> Evaluation:
        return Evaluation(**self.about["recipe"]["evaluation"])


def read_bundle(path: Path) -> Bundle:
    """The contract alone, without weights. RequestError where there is no bundle, Incompatible where it is broken."""
    file = path / "bundle.json"
    if not file.is_file():
        raise RequestError(f"{path} is no bundle: it holds no bundle.json; name the folder that `pretrain` wrote")
    try:
        about = json.loads(file.read_text())
        if about["format"] != FORMAT:
            raise Incompatible(
                f"{path} has format {about['format']}, this version reads {FORMAT}; install the version it names"
            )
        specs = {name: InputSpec(**spec) for name, spec in about["inputs"].items()}
        for part in ("domain", "encoder", "recipe", "groups", "key", "data", "fingerprint", "sha256"):
            about[part]
        about["encoder"]["name"]
        if not specs:
            raise ValueError("it names no input")
        found = Bundle(path, about, specs)
        found.data(path), found.evaluation, found.groups
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError) as error:
        first = " ".join(str(error).split())[:120]
        raise Incompatible(
            f"{file} is damaged or not a bundle's ({type(error).__name__}: {first}); copy it again"
        ) from None
    return found


def load_bundle(path: str | Path, may_differ: Sequence[str] = ()) -> Encoder:
    """The encoder of a bundle, in evaluation mode, with `.input_spec`, `.bundle` and `.report`.

    may_differ: patterns of tensor names that need not match (they keep random weights, named in the report).
    Raises RequestError (no bundle), Incompatible (below 100 % of the encoder, damaged, other output than when saved).
    """
    path = Path(path)
    bundle = read_bundle(path)
    weights = path / "encoder.safetensors"
    if not weights.is_file() or sha256(weights) != bundle.about["sha256"]:
        raise Incompatible(f"{weights} is missing or not the file bundle.json was written with; copy the bundle again")
    try:
        state = load_file(weights)
    except (SafetensorError, ValueError) as error:
        raise Incompatible(f"{weights} cannot be read ({error}); copy the bundle again") from None
    finite(state, path)
    options = {k: v for k, v in bundle.about["encoder"].items() if k != "name"}
    try:
        encoder = make_encoder(
            bundle.about["encoder"]["name"], options, domain(bundle.about["domain"]), bundle.specs, seed=0
        )
    except (RequestError, RuntimeError, TypeError) as error:  # a size no memory holds is a RuntimeError of torch's
        first = " ".join(str(error).split())[:200]
        raise Incompatible(f"{path} cannot be built here ({first}); load it where it was written") from None
    report = fill(encoder, state)
    faults = [n for n in (*report.missing, *report.reshaped, *report.unexpected) if not _any(n, may_differ)]
    if faults:
        raise Incompatible(f"{path}: {report}; name what may differ, or load it with the version that wrote it")
    if not may_differ and not _close(fingerprint(encoder), bundle.about["fingerprint"]):
        raise Incompatible(
            f"{path}: the weights match, but the output differs from the one saved with them; use the versions it names"
        )
    encoder.bundle, encoder.report = bundle, report
    return encoder.eval()


def fill(encoder: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """Copy every tensor of equal name, shape and kind (numbers with or without a point), and report the rest."""
    own = encoder.state_dict()
    matched = tuple(k for k in own if k in state and _alike(state[k], own[k]))
    for k in matched:
        own[k].copy_(state[k])
    return LoadReport(
        matched,
        missing=tuple(k for k in own if k not in state),
        unexpected=tuple(k for k in state if k not in own),
        reshaped=tuple(k for k in own if k in state and not _alike(state[k], own[k])),
    )


def _alike(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.is_floating_point() == b.is_floating_point()


def _close(found: list[list[float]], saved: Any) -> bool:
    try:
        values = np.asarray(saved, dtype=np.float64)
    except (ValueError, TypeError):
        return False
    return values.shape == np.shape(found) and np.allclose(found, values, rtol=1e-3, atol=1e-4)


def _any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatch(name, p) for p in patterns)
