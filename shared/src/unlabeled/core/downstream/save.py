"""A model on disk: a bundle with a head, its classes and its contract beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from unlabeled.core.bundle import load_bundle
from unlabeled.core.bundle.card import fed
from unlabeled.core.bundle.fingerprint import output_on_fixed
from unlabeled.core.bundle.load import fill
from unlabeled.core.bundle.save import put_encoder
from unlabeled.core.contracts import Head, Incompatible, RequestError
from unlabeled.core.contracts.recipe import Strict
from unlabeled.core.downstream.kinds.base import METRICS
from unlabeled.core.downstream.label_augmentation import LabelAugmentation
from unlabeled.core.downstream.model import Model
from unlabeled.core.files import folder_atomic, sha256, write_json
from unlabeled.core.measures.intervals import Interval

FILES = ("encoder.safetensors", "head.safetensors", "bundle.json")


class Ends(Strict):
    """A number with its 95 % interval; None where it is not defined, as the interval of a single group."""

    mean: float | None
    low: float | None
    high: float | None

    @classmethod
    def of(cls, interval: Interval) -> Ends:
        return cls(**{k: v if math.isfinite(v) else None for k, v in vars(interval).items()})

    def __str__(self) -> str:
        if self.mean is None:
            return "not defined"
        return f"{self.mean:.3f}" + (" (no interval)" if self.low is None else f" [{self.low:.3f}, {self.high:.3f}]")


class Score(Strict):
    """On the validation groups; the gain is the score less that of the baseline, paired by groups."""

    score: Ends
    baseline: Ends
    gain: Ends


class About(Strict):
    """`model.json`."""

    format: Literal[1] = 1
    task: dict[str, str] = Field(description="name, kind, metric and summary of the head")
    classes: tuple[str, ...] = Field(description="in the order of the outputs; none for regression")
    unit: str = Field(description="of a predicted value")
    window: tuple[float, ...] | None = Field(description="size of an item in physical units; none: whole records")
    stride: tuple[float, ...] | None
    start: dict[str, str] = Field(description="the weights it began from: a name, and their SHA-256")
    settings: dict[str, Any] = Field(description="of the fine-tuning")
    best_step: int = Field(description="completed steps of the weights that were kept")
    n: dict[str, int] = Field(description="labelled records, groups and items of training and validation; failed items")
    groups: dict[str, tuple[str, ...]] = Field(description="keyed hashes of the groups of training and validation")
    key: str = Field(description="which project key they are hashed with")
    seen_in_pretraining: tuple[str, ...] | None = Field(description="of the validation groups; none: nobody knows")
    baseline: str = Field(description="what the score stands beside")
    score: dict[str, Score] = Field(description="by metric; empty without validation groups")
    absent: tuple[str, ...] = Field(
        (), description="classes that no validation record has, left out of means over classes"
    )
    fingerprint: list[list[float]] = Field(description="the head's output on the bundle's fixed input")
    sha256: dict[str, str]

    @property
    def head(self) -> Head:
        return Head(**self.task)  # type: ignore[arg-type]

    @property
    def outputs(self) -> int:
        return len(self.classes) or 1


def fingerprint(model: Model) -> list[list[float]]:
    return output_on_fixed(model, model.encoder.specs, model)


def save_model(path: Path, model: Model, head: Head, bundle: Mapping[str, Any], about: Mapping[str, Any]) -> Path:
    """Write the folder `path`, whole or not at all: weights, `bundle.json` (about the encoder), `model.json`, a model card.

    bundle: what `bundle.json` says but for the weights. about: `About` but for what is true of the weights.
    """
    with folder_atomic(path) as temp:
        put_encoder(temp, model.encoder, bundle)
        own = {k: v.detach().cpu().contiguous() for k, v in _own(model).items()}
        save_file(own, temp / "head.safetensors")
        whole = About(
            **about,
            task=asdict(head),
            fingerprint=fingerprint(model),
            sha256={name: sha256(temp / name) for name in FILES},
        )
        write_json(temp / "model.json", whole.model_dump(mode="json"))
        (temp / "README.md").write_text(card(whole, bundle), encoding="utf-8")
    return path


def read_model(path: Path) -> About:
    """What `model.json` says, without weights. RequestError where there is no model, Incompatible where it is broken."""
    file = path / "model.json"
    if not file.is_file():
        raise RequestError(f"{path} is no model: it holds no model.json; name the folder that `finetune` wrote")
    try:
        values = json.loads(file.read_text())
        found = values.get("format")
        if found != 1:
            raise Incompatible(f"{path} has format {found}, this version reads 1; install the version it names")
        about = About.model_validate_json(file.read_text())
        assert set(about.sha256) == set(FILES) and about.head.kind in METRICS
    except (ValueError, TypeError, AttributeError, AssertionError, RecursionError, ValidationError) as error:
        first = " ".join(str(error).split())[:120]
        raise Incompatible(
            f"{file} is damaged or not a model's ({type(error).__name__}: {first}); copy it again"
        ) from None
    return about


def load_model(path: str | Path) -> Model:
    """The model of a folder, in evaluation mode, with `.about` and `.encoder.bundle`.

    Raises RequestError (no model), Incompatible (a file that is missing or another one, less than 100 % of the tensors,
    other output than when it was saved). No pickle is read.
    """
    path = Path(path)
    about = read_model(path)
    for name, wanted in about.sha256.items():
        if not (path / name).is_file() or sha256(path / name) != wanted:
            raise Incompatible(
                f"{path / name} is missing or not the file model.json was written with; copy the model again"
            )
    encoder = load_bundle(path)
    try:
        state = load_file(path / "head.safetensors")
    except (SafetensorError, ValueError) as error:
        raise Incompatible(f"{path / 'head.safetensors'} cannot be read ({error}); copy the model again") from None
    made = LabelAugmentation if about.settings.get("label_augmentation") else Model
    model = made(encoder, about.head.kind, about.outputs)
    report = fill(model, {**{f"encoder.{k}": v for k, v in encoder.state_dict().items()}, **state})
    if report.missing or report.unexpected or report.reshaped:
        raise Incompatible(f"{path}: {report}; load it with the version that wrote it")
    if not np.allclose(fingerprint(model), about.fingerprint, rtol=1e-3, atol=1e-4):
        raise Incompatible(
            f"{path}: the weights match, but the output differs from the one saved with them; use the versions it names"
        )
    model.about = about
    return model.eval()


def _own(model: Model) -> dict[str, Any]:
    return {k: v for k, v in model.state_dict().items() if not k.startswith("encoder.")}


def card(about: About, bundle: Mapping[str, Any]) -> str:
    """The model card, from what the model and its bundle know of themselves."""
    unit = next(iter(bundle["inputs"].values()))["unit"]
    head, n = about.head, about.n
    size = f"{' x '.join(f'{w:g}' for w in about.window)} {unit}" if about.window else "whole records"
    lines = [
        f"# {head.name}: {head.kind} for {bundle['domain']}",
        "",
        f"- {head.summary}",
        f"- {'classes: ' + ', '.join(about.classes) if about.classes else 'unit: ' + (about.unit or 'not stated')}",
        f"- items: {size}; began from {about.start['start']}; {about.settings['mode']}, {about.best_step} of "
        f"{about.settings['steps']} steps kept",
        f"- trained on {n['train_records']} labelled records of {n['train_groups']} groups",
        "- groups are stored as keyed hashes; the project key is not in this folder",
        "",
        *fed(bundle),
        "",
        "## What it is worth",
        "",
    ]
    if not about.score:
        lines.append("Nothing is known: no group was left out of the training.")
    else:
        lines += [
            f"On {n['validation_records']} records of {n['validation_groups']} groups left out of the training, beside "
            f"{about.baseline}; 95 % intervals over groups.",
            "",
            "| metric | score | baseline | difference |",
            "|---|---|---|---|",
        ]
        lines += [f"| {name} | {s.score} | {s.baseline} | {s.gain} |" for name, s in about.score.items()]
        lines += ["", *limits(about)]
    return "\n".join(lines) + "\n"


def limits(about: About) -> Sequence[str]:
    """What keeps the score from being the one to expect."""
    lines = ["The step was chosen on these groups too, so the score is the upper side of what to expect on new ones."]
    if about.absent:
        named = ", ".join(about.absent[:5]) + (", ..." if len(about.absent) > 5 else "")
        lines.append(
            f"No validation record has {len(about.absent)} of the {len(about.classes)} classes ({named}): means over classes "
            "leave them out."
        )
    if about.seen_in_pretraining is None:
        lines.append(
            "The weights it began from have another project key or no bundle: nobody knows which of the groups they saw."
        )
    elif about.seen_in_pretraining:
        lines.append(
            f"Of these groups, {len(about.seen_in_pretraining)} of {about.n['validation_groups']} were seen in pretraining, "
            "without labels."
        )
    return lines


def show(about: About) -> None:
    """The score as a table."""
    from rich.console import Console
    from rich.table import Table

    console, n = Console(highlight=False, soft_wrap=True), about.n
    if about.score:
        table = Table("metric", "score, 95 %", "baseline, 95 %", "difference, 95 %")
        for name, s in about.score.items():
            table.add_row(name, str(s.score), str(s.baseline), str(s.gain))
        console.print(table, markup=False)
        console.print(f"baseline: {about.baseline}", markup=False)
    console.print(
        f"trained on {n['train_records']} records of {n['train_groups']} groups, step {about.best_step} kept; tested on "
        f"{n['validation_records']} records of {n['validation_groups']} groups",
        markup=False,
    )
    for line in limits(about) if about.score else ["No group was left out, so nothing is known of its worth."]:
        console.print(line, markup=False)
