"""A look at a trained method: where a few items lie in its embedding, and what it makes of hidden patches.

Made while model and data are at hand, kept as one small file of arrays, and drawn later by the report from that file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.core.contracts import BadInput, Sample
from unlabeled.core.contracts.batch import Batch, BatchInput
from unlabeled.core.data.items import Items
from unlabeled.core.data.loading import Collate
from unlabeled.core.evaluation.labels import UNLABELLED
from unlabeled.core.files import write_atomic
from unlabeled.core.measures.pca import pca
from unlabeled.core.methods.base import Context, Method
from unlabeled.core.nn.base import Encoder
from unlabeled.core.training.step import floating

POINTS = 500  # items on the map
PICTURES = 4  # items reconstructed
BATCH = 64
CHANNELS = 3  # of a picture
CELLS = 1024  # along an axis of a picture, thinned beyond

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Look:
    """points (N, 2) on the first two principal axes, with share (2,) of the variance; group (N,) keyed hashes; label (N,)
    codes of `classes`, -1 without one.

    pictures  "input.original", "input.masked", "input.predicted" -> (n, C, *S), d <= 2; NaN where nothing is shown
    missing   "map", "labels" or "pictures" -> why it is not here
    by        what `label` is of an item, for captions
    """

    points: Floats
    share: Floats
    group: NDArray[np.str_]
    label: NDArray[np.int64]
    classes: tuple[str, ...] = ()
    pictures: Mapping[str, Floats] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    by: str = "label"


def save(path: Path, look: Look) -> None:
    arrays: dict[str, Any] = {
        "points": look.points.astype(np.float32),
        "share": look.share,
        "group": look.group,
        "label": look.label,
    }
    arrays |= {f"picture:{name}": x.astype(np.float32) for name, x in look.pictures.items()}
    arrays["about"] = np.array(json.dumps({"classes": look.classes, "missing": dict(look.missing), "by": look.by}))

    def write(temp: Path) -> None:
        with temp.open("wb") as file:
            np.savez_compressed(file, **arrays)

    write_atomic(path, write)


def read(path: Path) -> Look:
    with np.load(path, allow_pickle=False) as file:
        about = json.loads(str(file["about"]))
        pictures = {name.partition(":")[2]: file[name] for name in file.files if name.startswith("picture:")}
        arrays = {name: file[name] for name in ("points", "share", "group", "label")}
    return Look(
        **arrays,
        classes=tuple(about["classes"]),
        pictures=pictures,
        missing=about["missing"],
        by=about.get("by", "label"),
    )


def spread_out(n: int, most: int = POINTS) -> NDArray[np.int64]:
    """At most `most` of the numbers 0 ... n - 1, evenly apart."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def flat(values: Floats) -> tuple[Floats, Floats]:
    return pca(values, 2)


def embedded(encoder: Encoder, items: Items) -> tuple[Floats, NDArray[np.int64]]:
    """Pooled features (N, P) of at most `POINTS` items, and the items' numbers; items that cannot be read are left out."""
    values, at = [], []
    for start in range(0, len(some := spread_out(len(items))), BATCH):
        samples = readable(items, some[start : start + BATCH])
        if samples:
            values.append(encoder(_batch(encoder, samples).inputs).pooled.float().cpu().numpy())
            at += [s.index for s in samples]
    return np.concatenate(values), np.array(at, np.int64)


def some_inputs(encoder: Encoder, items: Items, most: int = BATCH) -> list[dict[str, BatchInput]]:
    """Inputs of at most `most` readable items, evenly apart, in batches of 8, as the encoder is to be fed."""
    at = spread_out(len(items), most)
    parts = (readable(items, at[i : i + 8]) for i in range(0, len(at), 8))
    return [dict(_batch(encoder, samples).inputs) for samples in parts if samples]


def reconstructed(method: Method, items: Items, context: Context) -> dict[str, Floats]:
    """What `method.reconstruct` gives for a few items, at most two axes and three channels of it.

    Of more axes the middle slice along the first ones; longer axes are thinned.
    """
    samples = readable(items, spread_out(len(items), PICTURES))
    given: Mapping[str, torch.Tensor] = method.reconstruct(_batch(method, samples), context)  # type: ignore[operator]
    return {name: _small(x.float().cpu().numpy()) for name, x in given.items()}


def _small(x: Floats) -> Floats:
    x = x[:, :CHANNELS]
    while x.ndim > 4:
        x = x[:, :, x.shape[2] // 2]
    steps = tuple(slice(None, None, -(-n // CELLS)) for n in x.shape[2:])
    return x[(slice(None), slice(None), *steps)]


def readable(items: Items, at: Sequence[int] | NDArray[np.int64]) -> list[Sample]:
    found = []
    for i in at:
        try:
            found.append(items.sample(int(i)))
        except BadInput:  # counted where the run met it
            continue
    return found


def _batch(module: Encoder | Method, samples: Sequence[Sample]) -> Batch:
    first = next(module.parameters())
    batch = Collate(module.specs)(samples).to(first.device)
    return floating(batch, first.dtype)  # type: ignore[no-any-return]


def unlabelled(n: int) -> NDArray[np.int64]:
    return np.full(n, UNLABELLED, np.int64)
