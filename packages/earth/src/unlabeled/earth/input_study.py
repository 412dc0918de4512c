"""Size and normaliser of the input against frozen features: the protocol of Corley et al. 2024 on the user's own labels.

Chips are embedded at their own size and resized (bilinear), under each normaliser, and classified by 5 nearest neighbours
and by a linear probe, with whole groups left out. Features of weights are taken as they are; those of random weights and of
the baselines are standardised on the training chips before neighbours are sought, as there. Unlike there, scores are
macro-F1 and accuracy over groups of ground, never over chips drawn by lot.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from unlabeled.core.bundle import read_bundle, start_encoder
from unlabeled.core.contracts import Incompatible, InputSpec, RequestError, load
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.corpus import MEASURED, Corpus
from unlabeled.core.data.groups import distinct
from unlabeled.core.data.items import Items, cut
from unlabeled.core.data.loading import Collate
from unlabeled.core.evaluation.guard import pretraining_cells
from unlabeled.core.evaluation.heads import Head, head_of
from unlabeled.core.evaluation.knn import knn
from unlabeled.core.evaluation.labels import UNLABELLED, read_labels
from unlabeled.core.evaluation.probe import probe
from unlabeled.core.measures.confusion import confusion
from unlabeled.core.measures.intervals import interval, over_groups
from unlabeled.core.nn.base import Encoder
from unlabeled.core.studies import folds
from unlabeled.core.studies.starts import check_unseen, title
from unlabeled.earth import domain
from unlabeled.earth.labels import cells
from unlabeled.earth.weights import ANY, size_of, under_any

log = logging.getLogger(__name__)

CLEAR = 0.6  # least share of a chip's labelled cells that are of one class
LABELLED = 0.25  # least share of a chip's cells that have a label
K = 5
FOLDS = 5
BATCH = 64

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Chips:
    """Labelled chips: label (N,) class numbers, group (N,), folds by group; dropped: how many have no clear label."""

    items: Items
    label: Ints
    classes: tuple[str, ...]
    folds: tuple[folds.Fold, ...]
    dropped: int

    @property
    def group(self) -> NDArray[np.str_]:
        return np.array(self.items.corpus.groups)[self.items.record]

    @property
    def size(self) -> tuple[int, ...] | None:
        return self.items.cells


def compare(
    recipe: Recipe,
    starts: Sequence[str],
    sizes: Sequence[int],
    normalisers: Sequence[str],
    on_progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Scores of every start, normaliser and size, and of the simple baselines, as plain JSON.

    Weights that another normaliser than theirs would refuse are taken all the same: that is what is measured. The row then
    says why it is refused elsewhere.

    Raises RequestError (labels, sizes, names), Leakage (a bundle has seen a group that is tested), Absent, Incompatible.
    """
    chips = labelled(recipe)
    tested = [g for fold in chips.folds for g in fold.test]
    check_unseen(
        recipe.model_copy(
            update={"start": None, "stages": (), "study": recipe.study.model_copy(update={"starts": tuple(starts)})}
        ),
        tested,
    )
    rows: list[dict[str, Any]] = []
    total = len(starts) * len(normalisers) + 1
    update = on_progress or (lambda done, total, note: None)
    for i, normaliser in enumerate(normalisers):
        specs = [_specs(chips, normaliser, fold) for fold in chips.folds]
        for j, start in enumerate(starts):
            update(i * len(starts) + j, total, title(start))
            rows += _of_start(recipe, chips, start, normaliser, specs, sizes)
    update(total - 1, total, "baselines")
    rows += _baselines(chips)
    update(total, total, "")
    return {
        "classes": list(chips.classes),
        "chips": len(chips.label),
        "per_class": {name: int((chips.label == c).sum()) for c, name in enumerate(chips.classes)},
        "dropped": chips.dropped,
        "groups": len(set(chips.group.tolist())),
        "folds": len(chips.folds),
        "rows": rows,
    }


def labelled(recipe: Recipe) -> Chips:
    """The evaluation's windows, without overlap, that have a clear label, and the folds of their groups."""
    if recipe.study.labels is None:
        raise RequestError("study.labels is missing: name a CSV with the columns key and label, or a raster of classes")
    corpus = Corpus.open(domain, recipe.data)
    items = cut(corpus, recipe.evaluation.window or recipe.data.window, None, recipe.data.min_valid)
    found = cells(recipe.study.labels, corpus)
    if found is None:
        read = read_labels(recipe.study.labels, [r.key for r in corpus.rows], [r.key for r in corpus.manifest.bad])
        classes, label = read.classes, read.codes[items.record]
    else:
        masks = (
            found.of(int(r), items.region(i)) if found.masks[int(r)] is not None else np.zeros(0, np.int64)
            for i, r in enumerate(items.record)
        )
        classes, label = found.classes, np.array([majority(m) for m in masks], np.int64)
    clear = label != UNLABELLED
    if len(np.unique(label[clear])) < 2:
        raise RequestError(
            f"{recipe.study.labels}: {int(clear.sum())} of {len(label)} chips have a clear label, of fewer than two classes; set "
            "data.window lower, or add labels"
        )
    kept = items.take(clear)
    there = distinct(np.array(corpus.groups)[kept.record].tolist())
    if recipe.study.folds is not None:
        made = folds.named(recipe.study.folds, corpus, there, (), "chip")
    else:
        made = folds.by_lot(corpus.groups, there, math.ceil(len(there) / FOLDS), recipe.seed)
    # what is in no fold, such as a gap between two sides, is neither trained nor tested on
    used = np.isin(np.array(corpus.groups)[kept.record], [g for fold in made for g in (*fold.train, *fold.test)])
    chips = Chips(kept.take(used), label[clear][used], classes, made, int((~clear).sum()))
    for number, (train, test) in enumerate(_splits(chips)):
        if len(np.unique(chips.label[train])) < 2 or not test.any():
            raise RequestError(f"fold {number} trains on fewer than two classes, or tests no chip; choose other folds")
    return chips


def majority(codes: NDArray[np.integer]) -> int:
    """The class of a chip whose cells have these, -1 without label: at least 60 % of those labelled, a quarter of all."""
    there = codes[codes != UNLABELLED].astype(np.int64)
    if len(there) == 0 or len(there) < LABELLED * codes.size:
        return UNLABELLED
    count = np.bincount(there)
    return int(count.argmax()) if count.max() >= CLEAR * len(there) else UNLABELLED


def resized(x: Dense, size: int | None) -> Dense:
    """Bilinear, as before the model in the paper: the spacing stays what the contract says, so tokens see a larger image."""
    if size is None or tuple(x.values.shape[2:]) == (size, size):
        return x
    values = F.interpolate(x.values, (size, size), mode="bilinear", align_corners=False)
    valid = F.interpolate(x.valid.float(), (size, size), mode="nearest") > 0.5
    return replace(x, values=torch.where(valid, values, 0), valid=valid)


@torch.inference_mode()
def embedded(encoder: Encoder, items: Items, size: int | None = None) -> Floats:
    """(N, P) pooled features of every item, resized to `size` cells; None: as they are."""
    collate = Collate(encoder.specs)
    made = []
    for first in range(0, len(items), BATCH):
        batch = collate([items.sample(i) for i in range(first, min(first + BATCH, len(items)))]).ready()
        inputs = {name: resized(x, size) for name, x in batch.inputs.items() if isinstance(x, Dense)}
        made.append(encoder(inputs).pooled.float().numpy())
    return np.concatenate(made)


def scored(
    chips: Chips, features: Sequence[Floats], standardise: bool, head: Head | None = None
) -> dict[str, dict[str, Any]]:
    """Scores with 95 % intervals over the tested groups, of features (N, P) for each fold. head: of the linear probe."""
    tested = [g for fold in chips.folds for g in fold.test]
    at = {g: i for i, g in enumerate(tested)}
    classes, group = len(chips.classes), chips.group
    tallies: dict[str, NDArray[np.int64]] = {}
    for (train, test), x in zip(_splits(chips), features, strict=True):
        for name, predicted in _predicted(x, chips, train, test, standardise, head):
            tally = tallies.setdefault(name, np.zeros((len(tested), classes, classes), np.int64))
            for g in set(group[test].tolist()):
                here = group[test] == g
                tally[at[g]] += confusion(chips.label[test][here], predicted[here], classes)
    return {name: _score(tally) for name, tally in tallies.items()}


def _predicted(
    x: Floats, chips: Chips, train: NDArray[np.bool_], test: NDArray[np.bool_], standardise: bool, head: Head | None
) -> Iterator[tuple[str, Ints]]:
    label, classes = chips.label[train], len(chips.classes)
    near, far = x[train], x[test]
    if standardise:
        scaler = StandardScaler().fit(near)
        near, far = scaler.transform(near), scaler.transform(far)
    neighbours = KNeighborsClassifier(min(K, len(label)), algorithm="brute")
    yield "kNN, Euclidean", neighbours.fit(near, label).predict(far)
    yield "kNN, cosine", knn(near, label, far, classes, K).argmax(1)
    # chips of one block resemble each other: the probe's own splits keep blocks together
    record = chips.items.record.astype(np.int64)[train]
    yield "linear probe", probe(x[train], label, record, x[test], classes, head).scores.argmax(1)


def _score(tally: NDArray[np.int64]) -> dict[str, Any]:
    f1 = interval(tally[None, None], seed=0)
    right = over_groups(_accuracy, tally, seed=0)
    named = {"macro_f1": f1, "accuracy": right}
    return {name: {"score": s.mean, "low": s.low, "high": s.high} for name, s in named.items()}


def _accuracy(confusions: NDArray[Any]) -> NDArray[np.float64]:
    total = confusions.sum((-1, -2))
    return np.asarray(np.where(total > 0, np.trace(confusions, axis1=-2, axis2=-1) / np.maximum(total, 1), np.nan))


def _splits(chips: Chips) -> list[tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    return [(np.isin(chips.group, fold.train), np.isin(chips.group, fold.test)) for fold in chips.folds]


def _specs(chips: Chips, normaliser: str, fold: folds.Fold) -> dict[str, InputSpec]:
    """The contract under a normaliser, with constants measured on the groups trained on, where they are measured."""
    corpus = chips.items.corpus
    return (corpus.only(fold.train) if normaliser in MEASURED else corpus).normalised(normaliser).specs


def _of_start(
    recipe: Recipe,
    chips: Chips,
    start: str,
    normaliser: str,
    specs: Sequence[dict[str, InputSpec]],
    sizes: Sequence[int],
) -> list[dict[str, Any]]:
    """One row for each size. Folds whose constants are equal share their features."""
    wanted = [None, *(s for s in sizes if chips.size != (s, s))]
    refused = ""
    made: dict[tuple[str, int | None], Floats] = {}
    features: dict[int | None, list[Floats]] = {size: [] for size in wanted}
    for of_fold in specs:
        key = "".join(spec.normaliser.model_dump_json() for spec in of_fold.values())
        if (key, None) not in made:
            encoder, why = _begun(recipe, start, of_fold)
            refused = refused or why
            items = replace(chips.items, corpus=chips.items.corpus.normalised(specs=of_fold))
            made |= {(key, size): embedded(encoder, items, size) for size in wanted}
        for size in wanted:
            features[size].append(made[key, size])
    about = {"start": title(start), "normaliser": normaliser, "pretraining_cells": _before(start), "refused": refused}
    return [
        {**about, "cells": size or _native(chips), "scores": scored(chips, features[size], start == "random")}
        for size in wanted
    ]


def _begun(recipe: Recipe, start: str, specs: dict[str, InputSpec]) -> tuple[Encoder, str]:
    """The encoder, and why the guard refuses it under this normaliser, "" where it does not."""
    kind, _, rest = start.partition(":")
    try:
        return start_encoder(start, domain, specs, recipe.encoder, recipe.seed), ""
    except Incompatible as error:
        if kind != "torchgeo" or ANY not in str(error):
            raise
        forced = f"{kind}:{under_any(rest)}"
        return start_encoder(forced, domain, specs, recipe.encoder, recipe.seed), str(error)


def _before(start: str) -> int | list[int] | None:
    kind, _, rest = start.partition(":")
    if kind == "torchgeo":
        return size_of(rest)
    if not (Path(start) / "bundle.json").is_file():  # random weights, or a file without a bundle around it
        return None
    found = pretraining_cells(read_bundle(Path(start)))
    return None if found is None else list(found)


def _native(chips: Chips) -> str | int:
    size = chips.size
    return "native" if size is None else size[0] if len(set(size)) == 1 else " x ".join(map(str, size))


def _baselines(chips: Chips) -> list[dict[str, Any]]:
    """The domain's baselines of whole windows, each by its own head, on values as they are."""
    corpus = chips.items.corpus.normalised("none")
    samples = [replace(chips.items, corpus=corpus).sample(i) for i in range(len(chips.items))]
    rows = []
    for card in domain.baselines:
        if not hasattr(load(card.target), "features"):
            continue
        made = [
            np.asarray(
                load(card.target)().fit([s for s, there in zip(samples, train, strict=True) if there]).features(samples)
            )
            for train, _ in _splits(chips)
        ]
        scores = scored(chips, made, True, head_of(card))
        about = {"start": card.name.partition("+")[0], "normaliser": "none", "cells": _native(chips)}
        rows.append({**about, "pretraining_cells": None, "refused": "", "scores": scores})
    return rows
