"""The jobs of a study. Each writes one file `jobs/<name>.json`, whole, and is done where that file is.

test_records, or test_points: (T,) numbers of the units left out
predictions  start -> budget -> (S, D, T) class codes: seeds of this job, label draws, units left out
choices      start -> budget -> (S, D) what was chosen of the head's grid, or the learning rate
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unlabeled.core.build import build_encoder
from unlabeled.core.bundle import load_bundle, read_bundle
from unlabeled.core.contracts import MethodCard, load
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.groups import check_disjoint
from unlabeled.core.evaluation.heads import Features, Forest, Logistic, head_of, suits
from unlabeled.core.evaluation.look import Look, flat, save, spread_out
from unlabeled.core.files import write_atomic, write_json
from unlabeled.core.nn.base import Encoder
from unlabeled.core.studies import starts
from unlabeled.core.studies.plan import Plan
from unlabeled.core.studies.readings import Reading, reading
from unlabeled.core.studies.scoring import Scorer, open_corpus, training_specs
from unlabeled.core.studies.tuning import Tuner
from unlabeled.core.studies.units import of_points

OURS, RANDOM = "ours", "random weights"
FROZEN, TUNED = "frozen", "fine-tuned"


def fold_name(fold: int) -> str:
    return f"fold-{fold}"


def seed_name(fold: int, seed: int) -> str:
    return f"fold-{fold}-seed-{seed}"


def result(out: Path, name: str) -> Path:
    return out / "jobs" / f"{name}.json"


def baselines(recipe: Recipe) -> list[MethodCard]:
    """The domain's baselines that suit the data and give features of what the study labels: of windows, or of cells."""
    method = "cells" if of_points(recipe) else "features"
    cards = [card for card in domain(recipe.domain).baselines if hasattr(load(card.target), method)]
    return [card for card in cards if suits(card, recipe.data)]


def joined_with(recipe: Recipe) -> MethodCard | None:
    """The baseline whose features ours is joined with: the first one that has the same head as ours."""
    cards = [c for c in baselines(recipe) if isinstance(head_of(c), Logistic)]
    return cards[0] if cards else None


def simple_name(card: MethodCard) -> str:
    """`hand` of `hand+logreg`."""
    return card.name.partition("+")[0]


# the baselines of one fold


def baseline_job(recipe: Recipe, plan: Plan, fold: int, out: Path) -> None:
    """Every baseline on one fold; keeps the features that ours will be joined with."""
    began = time.monotonic()
    corpus = open_corpus(recipe, plan)
    read = reading(recipe, plan, corpus.normalised(specs=training_specs(recipe, corpus, plan.folds[fold])))
    scorer = Scorer(plan, fold, read.unit)
    predictions: dict[str, dict[str, list[Any]]] = {}
    choices: dict[str, dict[str, list[Any]]] = {}
    made: dict[str, Features] = {}
    joined = joined_with(recipe)
    for card in baselines(recipe):
        if card.target not in made:
            made[card.target] = read.simple(load(card.target), plan.folds[fold].train)
        for seed in plan.seeds if isinstance(head_of(card), Forest) else plan.seeds[:1]:
            one, chosen = scorer.frozen(made[card.target], head_of(card, seed))
            for budget in one:
                predictions.setdefault(card.name, {}).setdefault(budget, []).append(one[budget])
                choices.setdefault(card.name, {}).setdefault(budget, []).append(chosen[budget])
        if joined is not None and card.name == joined.name:
            write_atomic(_features_path(out, fold), partial(_save, values=made[card.target]))
    _write(out, fold_name(fold), scorer, began, predictions=predictions, choices=choices)


def _features_path(out: Path, fold: int) -> Path:
    return out / "jobs" / f"{fold_name(fold)}.features.npy"


def _save(path: Path, values: Features) -> None:
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=False)


# ours, random weights and off-the-shelf weights on one fold, with one seed


def seed_job(
    recipe: Recipe, plan: Plan, fold: int, seed: int, shelf: Mapping[str, Mapping[str, Any]], out: Path
) -> None:
    """Pretrain on the fold's training groups and compare with random weights and off-the-shelf ones.

    shelf: what `starts.examined` found.
    """
    began = time.monotonic()
    bundle, seconds = _pretrained(recipe, plan, fold, seed, out)
    ours = load_bundle(bundle)
    random = build_encoder(recipe, domain(recipe.domain), ours.specs, seed).eval()
    encoders: dict[str, Encoder] = {OURS: ours, RANDOM: random, **starts.encoders(recipe, shelf, ours.specs, seed)}
    device = _device(recipe)
    for encoder in encoders.values():
        encoder.to(device)
    corpus = open_corpus(recipe, plan).normalised(specs=ours.specs)
    read = reading(recipe, plan, corpus)
    scorer = Scorer(plan, fold, read.unit)
    joined = joined_with(recipe)
    simple = None if joined is None else np.load(_features_path(out, fold), allow_pickle=False)
    predictions: dict[str, dict[str, list[Any]]] = {}
    choices: dict[str, dict[str, list[Any]]] = {}

    def add(start: str, found: tuple[dict[str, Any], dict[str, Any]]) -> None:
        predictions[start] = {b: [rows] for b, rows in found[0].items()}
        choices[start] = {b: [rows] for b, rows in found[1].items()}

    for name, encoder in encoders.items():
        values = read.embedded(encoder)
        add(f"{name}, {FROZEN}", scorer.frozen(values))
        if joined is not None and simple is not None:
            add(f"{name} + {simple_name(joined)}", scorer.frozen(np.hstack([simple, values])))
        if (name, fold, seed) == (OURS, 0, plan.seeds[0]):
            _map(plan, values, read, out)

    tuner = Tuner(recipe, plan, fold, read, seed)
    rates = _rates(plan, fold, seed, out)
    for name, encoder in encoders.items():
        if name not in rates:
            rates[name] = tuner.choose(encoder)
        add(f"{name}, {TUNED}", tuner.predictions(encoder, rates[name]["lr"], scorer))
    name = seed_name(fold, seed)
    _write(out, name, scorer, began, predictions=predictions, choices=choices, lr=rates, pretraining_seconds=seconds)


def _map(plan: Plan, values: Features, read: Reading, out: Path) -> None:
    """What the report draws of the first pretraining: some windows or points of all groups, those left out too."""
    some = spread_out(len(values))
    of = read.unit[some]
    points, share = flat(values[some])
    group, label = np.array(plan.groups)[of], np.array(plan.labels)[of]
    save(out / "look.npz", Look(points, share, group, label, plan.classes))


def _device(recipe: Recipe) -> torch.device:
    from unlabeled.core.training.fit import device_kind

    return torch.device(device_kind(recipe.trainer))


def _pretrained(recipe: Recipe, plan: Plan, fold: int, seed: int, out: Path) -> tuple[Path, float]:
    """The bundle pretrained on the fold's training groups; its groups are checked against those left out."""
    from unlabeled.core.pretraining import pretrain

    groups = plan.folds[fold]
    data = recipe.data.model_copy(update={"groups": groups.train, "hold_out": 0.0})
    trainer = recipe.trainer.model_copy(update={"threads": torch.get_num_threads(), "tensorboard": False, "devices": 1})
    own = recipe.model_copy(update={"data": data, "trainer": trainer, "seed": seed})
    began = time.monotonic()
    bundle = pretrain(own, out / "pretraining" / seed_name(fold, seed))
    check_disjoint(read_bundle(bundle).groups, groups.test, f"fold {fold}, seed {seed}")
    return bundle, time.monotonic() - began


def _rates(plan: Plan, fold: int, seed: int, out: Path) -> dict[str, Any]:
    """The learning rates that the fold's first seed chose; nothing where this is the first seed."""
    if seed == plan.seeds[0]:
        return {}
    read: dict[str, Any] = json.loads(result(out, seed_name(fold, plan.seeds[0])).read_text())["lr"]
    return read


def _write(out: Path, name: str, scorer: Scorer, began: float, **about: Mapping[str, Any] | float) -> None:
    write_json(
        result(out, name),
        {f"test_{scorer.plan.unit}s": scorer.test.tolist(), "seconds": round(time.monotonic() - began, 2), **about},
    )
