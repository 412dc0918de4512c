"""The jobs of a study. Each writes one file `jobs/<name>.json`, whole, and is done where that file is.

predictions  start -> budget -> (S, D, T) class codes: seeds of this job, label draws, `test_records`
choices      start -> budget -> (S, D) what was chosen of the head's grid, or the learning rate
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.core.build import build_encoder, build_views
from unlabeled.core.bundle import load_bundle, read_bundle
from unlabeled.core.contracts import BadInput, InputSpec, MethodCard, RequestError, RunFailed, load
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.groups import check_disjoint
from unlabeled.core.data.items import Items, cut
from unlabeled.core.downstream.finetune import finetune
from unlabeled.core.evaluation.embed import embed
from unlabeled.core.evaluation.heads import Features, Forest, Head, Logistic, Scores, head_of
from unlabeled.core.evaluation.labels import UNLABELLED
from unlabeled.core.evaluation.probe import probe, vote
from unlabeled.core.files import write_atomic, write_json
from unlabeled.core.measures.confusion import confusion, macro_f1
from unlabeled.core.nn.base import Encoder
from unlabeled.core.streams import key, rng
from unlabeled.core.study.plan import Budget, Fold, Plan, draw, title

OURS, RANDOM = "ours", "random weights"
FROZEN, TUNED = "frozen", "fine-tuned"

Ids = NDArray[np.int64]


def fold_name(fold: int) -> str:
    return f"fold-{fold}"


def seed_name(fold: int, seed: int) -> str:
    return f"fold-{fold}-seed-{seed}"


def result(out: Path, name: str) -> Path:
    return out / "jobs" / f"{name}.json"


def joined_with(recipe: Recipe) -> MethodCard | None:
    """The baseline whose features ours is joined with: the domain's first one that has the same head as ours."""
    cards = [c for c in domain(recipe.domain).baselines if isinstance(head_of(c), Logistic)]
    return cards[0] if cards else None


def simple_name(card: MethodCard) -> str:
    """`hand` of `hand+logreg`."""
    return card.name.partition("+")[0]


# what both kinds of job stand on


def open_corpus(recipe: Recipe, plan: Plan | None = None) -> Corpus:
    corpus = Corpus.open(domain(recipe.domain), recipe.data)
    if plan is not None and tuple(r.key for r in corpus.rows) != plan.keys:
        raise RequestError(f"{recipe.data.path} changed since the study was planned; start a new one")
    return corpus


def windows(recipe: Recipe, corpus: Corpus) -> Items:
    """What is embedded and voted over: the evaluation's windows, else the data's."""
    size, step = recipe.evaluation.window, recipe.evaluation.stride
    if size is None:
        size, step = recipe.data.window, step or recipe.data.stride
    return cut(corpus, size, step, recipe.data.min_valid)


def training_specs(recipe: Recipe, corpus: Corpus, fold: Fold) -> dict[str, InputSpec]:
    """The contract with constants measured on the training groups only, as pretraining measures them."""
    return corpus.only(fold.train).normalised(recipe.data.normaliser).specs


def part(items: Items, at: Ids) -> Items:
    return replace(items, record=items.record[at], start=items.start[at])


def of_records(record: Ids, records: Ids) -> Ids:
    """Numbers of the items cut from these records."""
    return np.flatnonzero(np.isin(record, records))


class Scorer:
    """Predictions of one fold's test records from features per item."""

    def __init__(self, plan: Plan, fold: int, record: Ids) -> None:
        self.plan, self.fold, self.record = plan, fold, record
        self.labels = np.array(plan.labels)
        self.test = plan.of(plan.folds[fold].test)
        self.test_items = of_records(record, self.test)

    def frozen(self, features: Features, head: Head) -> tuple[dict[str, Any], dict[str, Any]]:
        """Predictions (D, T) and choices (D,) by budget, of a head on fixed features (items, P)."""
        predictions, choices = {}, {}
        for budget in self.plan.budgets:
            rows = [self._probed(features, draw, head) for draw in self.plan.label_draws(self.fold, budget)]
            predictions[title(budget)] = [p for p, _ in rows]
            choices[title(budget)] = [c for _, c in rows]
        return predictions, choices

    def _probed(self, features: Features, labelled: Ids, head: Head) -> tuple[list[int], float | None]:
        at = of_records(self.record, labelled)
        record = self.record[at]
        done = probe(features[at], self.labels[record], record, features[self.test_items], len(self.plan.classes), head)
        return self.voted(done.scores), done.choice

    def voted(self, scores: Scores) -> list[int]:
        votes = vote(scores, self.record[self.test_items], self.test)
        return [int(c) for c in votes.argmax(1)]


# the baselines of one fold


def baseline_job(recipe: Recipe, plan: Plan, fold: int, out: Path) -> None:
    """Every baseline of the domain on one fold; keeps the features that ours will be joined with."""
    began = time.monotonic()
    corpus = open_corpus(recipe, plan)
    items = windows(recipe, corpus.normalised(specs=training_specs(recipe, corpus, plan.folds[fold])))
    samples = _samples(items)
    inside = np.isin(np.array(plan.groups)[items.record], plan.folds[fold].train)
    train = [s for s, there in zip(samples, inside, strict=True) if there]
    scorer = Scorer(plan, fold, items.record)
    predictions: dict[str, dict[str, list[Any]]] = {}
    choices: dict[str, dict[str, list[Any]]] = {}
    made: dict[str, Features] = {}
    joined = joined_with(recipe)
    for card in domain(recipe.domain).baselines:
        if card.target not in made:
            made[card.target] = np.asarray(load(card.target)().fit(train).features(samples), np.float32)
        for seed in plan.seeds if isinstance(head_of(card), Forest) else plan.seeds[:1]:
            one, chosen = scorer.frozen(made[card.target], head_of(card, seed))
            for budget in one:
                predictions.setdefault(card.name, {}).setdefault(budget, []).append(one[budget])
                choices.setdefault(card.name, {}).setdefault(budget, []).append(chosen[budget])
        if joined is not None and card.name == joined.name:
            write_atomic(_features_path(out, fold), partial(_save, values=made[card.target]))
    _write(out, fold_name(fold), scorer, began, predictions=predictions, choices=choices)


def _samples(items: Items) -> list[Any]:
    return [items.sample(i) for i in range(len(items))]


def _features_path(out: Path, fold: int) -> Path:
    return out / "jobs" / f"{fold_name(fold)}.features.npy"


def _save(path: Path, values: Features) -> None:
    with path.open("wb") as file:
        np.save(file, values, allow_pickle=False)


# ours and random weights on one fold, with one seed


def seed_job(recipe: Recipe, plan: Plan, fold: int, seed: int, out: Path) -> None:
    """Pretrain on the fold's training groups and compare with the weights it began from."""
    began = time.monotonic()
    bundle, seconds = _pretrained(recipe, plan, fold, seed, out)
    ours = load_bundle(bundle)
    starts = {OURS: ours, RANDOM: build_encoder(recipe, domain(recipe.domain), ours.specs, seed).eval()}
    device = _device(recipe)
    for encoder in starts.values():
        encoder.to(device)
    corpus = open_corpus(recipe, plan).normalised(specs=ours.specs)
    items = windows(recipe, corpus)
    scorer = Scorer(plan, fold, items.record)
    joined = joined_with(recipe)
    simple = None if joined is None else np.load(_features_path(out, fold), allow_pickle=False)
    predictions: dict[str, dict[str, list[Any]]] = {}
    choices: dict[str, dict[str, list[Any]]] = {}

    def add(start: str, found: tuple[dict[str, Any], dict[str, Any]]) -> None:
        predictions[start] = {b: [rows] for b, rows in found[0].items()}
        choices[start] = {b: [rows] for b, rows in found[1].items()}

    for name, encoder in starts.items():
        embedded = embed(encoder, items, encoder.specs)
        if embedded.failed:
            raise BadInput(next(iter(embedded.failed.values())))
        add(f"{name}, {FROZEN}", scorer.frozen(embedded.values, Logistic()))
        if joined is not None and simple is not None:
            both = np.hstack([simple, embedded.values])
            add(f"{name} + {simple_name(joined)}", scorer.frozen(both, Logistic()))

    tuner = Tuner(recipe, plan, fold, corpus, items, seed)
    rates = _rates(plan, fold, seed, out)
    for name, encoder in starts.items():
        if name not in rates:
            rates[name] = tuner.choose(encoder)
        add(f"{name}, {TUNED}", tuner.predictions(encoder, rates[name]["lr"], scorer))
    name = seed_name(fold, seed)
    _write(out, name, scorer, began, predictions=predictions, choices=choices, lr=rates, pretraining_seconds=seconds)


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


class Tuner:
    """Fine-tuning on one fold: trained on the pretraining's items with its views, tested on the evaluation's windows."""

    def __init__(self, recipe: Recipe, plan: Plan, fold: int, corpus: Corpus, tested: Items, seed: int) -> None:
        self.recipe, self.plan, self.fold, self.tested, self.seed = recipe, plan, fold, tested, seed
        self.trained = cut(corpus, recipe.data.window, recipe.data.stride, recipe.data.min_valid)
        self.views = build_views(recipe, corpus.domain, corpus.specs) if recipe.views else None
        self.labels = np.array(plan.labels)

    def choose(self, encoder: Encoder) -> dict[str, Any]:
        """The learning rate with the best macro-F1 on held-out training groups, ties to the smaller; and all scores.

        The split and the labelled records are the same for every start. Raises RunFailed where every rate diverges.
        """
        labelled, outside = inner_split(self.plan, self.fold, self.recipe.study.groups_per_fold)
        scores: dict[float, float] = {}
        for lr in sorted(self.recipe.study.lr_grid):
            try:
                log_p, record = self._fitted(encoder, labelled, outside, lr, 0)
            except RunFailed:
                continue
            predicted = vote(log_p, record, outside).argmax(1)
            scores[lr] = float(macro_f1(confusion(self.labels[outside], predicted, len(self.plan.classes))))
        if not scores:
            raise RunFailed("fine-tuning diverged with every learning rate; set study.lr_grid lower")
        best = max(scores, key=lambda lr: (scores[lr], -lr))
        return {"lr": best, "scores": {f"{lr:g}": s for lr, s in scores.items()}}

    def predictions(self, encoder: Encoder, lr: float, scorer: Scorer) -> tuple[dict[str, Any], dict[str, Any]]:
        found, chosen = {}, {}
        for budget in self.plan.budgets:
            draws = self.plan.label_draws(self.fold, budget)[: self.recipe.study.finetune_draws]
            rows = [self._fitted(encoder, labelled, scorer.test, lr, 1 + i)[0] for i, labelled in enumerate(draws)]
            found[title(budget)] = [scorer.voted(row) for row in rows]
            chosen[title(budget)] = [lr for _ in draws]
        return found, chosen

    def _fitted(self, encoder: Encoder, labelled: Ids, test: Ids, lr: float, draw: int) -> tuple[Scores, Ids]:
        """Log-probabilities of the windows of the records `test`, and the record of each."""
        labels = np.where(np.isin(self.trained.record, labelled), self.labels[self.trained.record], UNLABELLED)
        at = of_records(self.tested.record, test)
        log_p = finetune(
            encoder,
            self.trained,
            labels,
            part(self.tested, at),
            len(self.plan.classes),
            lr=lr,
            steps=self.recipe.study.finetune_steps,
            seed=key(self.seed, "finetune", draw),
            views=self.views,
        )
        return log_p, self.tested.record[at]


def inner_split(plan: Plan, fold: int, held_out: int) -> tuple[Ids, Ids]:
    """Of the fold's training groups only: labelled records of the middle budget, and the records of `held_out` groups.

    Groups whose leaving out would take the last labelled record of a class stay in training.
    """
    train = plan.folds[fold].train
    order = [train[i] for i in rng(plan.seed, "inner", fold).permutation(len(train))]
    labels = np.array(plan.labels)
    classes = set(labels[plan.of(train)].tolist())
    out: list[str] = []
    for group in order:
        rest = tuple(g for g in train if g not in (*out, group))
        if len(out) < held_out and len(plan.of((group,))) and set(labels[plan.of(rest)].tolist()) == classes:
            out.append(group)
    if not out:
        raise RequestError(
            f"fold {fold}: no training group can be held out to choose a learning rate, since each holds the only "
            "records of a class; label more records"
        )
    inside = tuple(g for g in train if g not in out)
    middle: Budget = plan.by_size()[len(plan.budgets) // 2]
    return draw(labels, plan.of(inside), middle, plan.seed, "inner", fold), plan.of(tuple(out))


def _write(out: Path, name: str, scorer: Scorer, began: float, **about: Mapping[str, Any] | float) -> None:
    write_json(
        result(out, name),
        {"test_records": scorer.test.tolist(), "seconds": round(time.monotonic() - began, 2), **about},
    )
