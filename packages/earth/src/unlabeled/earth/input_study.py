"""Size and normaliser of the input against frozen features: the protocol of Corley et al. 2024 on the user's own labels.

Chips are embedded at their own size and resized (bilinear), under each normaliser, and classified by 5 nearest neighbours
and by a linear probe, with whole groups left out. Features of weights are taken as they are; those of random weights and of
the baselines are standardised on the training chips before neighbours are sought, as there. Unlike there, scores are
macro-F1 and accuracy over groups of ground, never over chips drawn by lot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from unlabeled.core.bundle import read_bundle, start_encoder
from unlabeled.core.contracts import Incompatible, InputSpec, load
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.corpus import MEASURED
from unlabeled.core.data.items import Items
from unlabeled.core.data.loading import Collate
from unlabeled.core.evaluation.guard import pretraining_cells
from unlabeled.core.evaluation.heads import head_of
from unlabeled.core.nn.base import Encoder
from unlabeled.core.studies import folds
from unlabeled.core.studies.starts import check_unseen, title
from unlabeled.earth import domain
from unlabeled.earth.input_chips import Chips, labelled
from unlabeled.earth.input_scores import Floats, scored
from unlabeled.earth.torchgeo_entries import ANY, size_of, under_any

BATCH = 64


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
            for train, _ in chips.splits
        ]
        scores = scored(chips, made, True, head_of(card))
        about = {"start": card.name.partition("+")[0], "normaliser": "none", "cells": _native(chips)}
        rows.append({**about, "pretraining_cells": None, "refused": "", "scores": scores})
    return rows
