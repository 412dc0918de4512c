"""The guard: whether what an encoder is given lies where its pretraining lay, in values and in size.

A contract compares names, units and spacing. It cannot tell a picture of 0 to 255 from reflectance whose files say the
same unit, nor chips of 64 cells from chips of 256; both change embeddings silently, and scores by tens of points
(Corley, Robinson, Dodhia, Ferres and Najafirad 2024, "Revisiting pre-trained remote sensing model benchmarks").
Limits are wide, so that other ground or another day passes: what is refused here is another scale, not another sample.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.bundle import Bundle
from unlabeled.core.contracts import BadInput, Incompatible, InputSpec
from unlabeled.core.data.corpus import Corpus, flat
from unlabeled.core.data.items import Items

log = logging.getLogger(__name__)

RECORDS = 4  # that are looked at
VALUES = 100_000  # of each
FAR = 20  # times wider or narrower than in pretraining
SIZE = 2  # times larger or smaller

Floats = NDArray[np.float64]


def check_values(corpus: Corpus) -> None:
    """Looks at a few records. Raises Incompatible where their values have another scale than pretraining saw.

    That is: a median beyond all that pretraining saw; a spread (1st to 99th percentile) over 20 times its range; or a range
    below a 20th of it, where under a normaliser of measured constants the deviation is below a 20th too. Allowed by
    `range` in the data's `convert`.
    """
    if "range" in corpus.data.convert:
        return
    for name, spec in corpus.specs.items():
        if spec.value_range is None:
            continue
        raw, normal = _looked_at(corpus, name, spec)
        low, high = spec.value_range
        if raw.size == 0 or high <= low:
            continue
        first, median, last = (float(v) for v in np.percentile(raw, (1, 50, 99)))
        measured = spec.normaliser.method in ("standard", "sensor")
        narrow = np.ptp(raw) < (high - low) / FAR and (not measured or normal.std() < 1 / FAR)
        if low <= median <= high and last - first <= FAR * (high - low) and not narrow:
            continue
        unit = " and ".join(sorted({u for u in spec.units if u}))
        whole = np.abs(raw - raw.round()) < 0.01  # but for the rounding of the way to the normaliser and back
        picture = raw.min() > -0.01 and raw.max() < 255.01 and bool(whole.all())
        raise Incompatible(
            f"{corpus.data.path}: values of {name!r} lie between {first:g} and {last:g} (median {median:g}), pretraining saw "
            f"{low:g} to {high:g}{f' {unit}' if unit else ''}"
            f"{'; whole numbers up to 255 look like a picture of 8 bits' if picture else ''}; give the files in the units they "
            "claim, or take them as they are with --convert range"
        )


def check_size(bundle: Bundle, items: Items) -> None:
    """Raises Incompatible where items have over twice or under half the cells of pretraining's along an axis.

    Knowingly is allowed: by `evaluation.window` of the recipe, or `size` in the data's `convert`.
    """
    before, now = pretraining_cells(bundle), items.cells
    if before is None or now is None or bundle.evaluation.window is not None or "size" in items.corpus.data.convert:
        return
    if any(max(a / b, b / a) > SIZE for a, b in zip(now, before, strict=True)):
        raise Incompatible(
            f"{items.corpus.data.path}: its items have {cells(now)} cells, pretraining's had {cells(before)}: features of "
            "another size are other features; cut or resample the files, pretrain with evaluation.window, or take them as they "
            "are with --convert size"
        )


def pretraining_cells(bundle: Bundle) -> tuple[int, ...] | None:
    """Size of pretraining's items; None where the bundle does not say."""
    found = bundle.about["data"].get("cells")
    return tuple(found) if found else None


def cells(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))


def fed(bundle: Bundle, items: Items) -> dict[str, Any]:
    """What a score is to be read beside: sizes, and how values are normalised."""
    methods = {name: spec.normaliser.method for name, spec in bundle.specs.items()}
    return {"pretraining_cells": pretraining_cells(bundle), "cells": items.cells, "normaliser": methods}


def _looked_at(corpus: Corpus, name: str, spec: InputSpec) -> tuple[Floats, Floats]:
    """Valid values of a few records, as they are and normalised."""
    raw, normal = [np.zeros(0)], [np.zeros(0)]
    for i in np.unique(np.linspace(0, len(corpus) - 1, RECORDS).round().astype(int)):
        try:
            x = corpus.record(int(i)).inputs[name]
        except BadInput:  # named where it is used
            continue
        values, valid = flat(x)
        at = np.flatnonzero(valid)
        at = at[:: -(-len(at) // VALUES) or 1]
        channel = at // values.shape[1]
        constants = spec.normaliser.constants.get(x.source)
        offset = np.zeros(len(values)) if constants is None else np.array(constants.offset)
        scale = np.ones(len(values)) if constants is None else np.array(constants.scale)
        normal.append(values.reshape(-1)[at])
        raw.append(normal[-1] * scale[channel] + offset[channel])
    return np.concatenate(raw), np.concatenate(normal)
