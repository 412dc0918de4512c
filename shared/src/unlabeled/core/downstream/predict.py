"""Predict: what a model says of the records of a folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch

from unlabeled.core.contracts import RequestError, TooManyBad, load
from unlabeled.core.contracts.recipe import Evaluation, Trainer, nearest
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.items import cut
from unlabeled.core.downstream.finetune import predicted_items
from unlabeled.core.downstream.infer import Prediction, predictions
from unlabeled.core.downstream.model import Model
from unlabeled.core.downstream.save import About, load_model
from unlabeled.core.downstream.tags import BETWEEN
from unlabeled.core.downstream.write import Predictions, Record, segments, write, writers
from unlabeled.core.evaluation.evaluate import under
from unlabeled.core.evaluation.guard import check_size
from unlabeled.core.files import folder_atomic, free, outside, write_json
from unlabeled.core.measures.multilabel import THRESHOLD
from unlabeled.core.training.fit import device_kind

log = logging.getLogger(__name__)

FORMATS = ("parquet", "csv")
MASKS = "masks"


def predict(
    model: str | Path,
    path: str | Path,
    out: str | Path,
    *,
    formats: Sequence[str] = FORMATS,
    convert: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    max_bad: float | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Predictions:
    """Predict every record of a folder and write `out`, a new folder, whole or not at all.

    `predictions.json` says what the numbers mean and which files were left out and why; the rest is one file or folder for
    each of `formats`, and for segmentation of more than one axis `masks/KEY.npy` (int16, -1 where there is no data), or what
    the domain's mapper writes: one map for each file.
    max_bad: share of records that may be left out; None: as the model was made.

    Raises RequestError (no model, no data, unknown format), Incompatible (the model refuses the files), TooManyBad.
    """
    path, out = Path(path), Path(out)
    outside(path, out)
    free(out)
    loaded = load_model(model)
    about: About = loaded.about
    bad = {} if max_bad is None else {"max_bad_fraction": max_bad}
    corpus = under(loaded.encoder.bundle, path, convert, options, **bad)
    if about.window is None:  # a window is as large as in training
        check_size(loaded.encoder.bundle, cut(corpus, None))
    known = writers(corpus.domain)
    for name in formats:
        if name not in known:
            raise RequestError(f"--format: {nearest(name, list(known))}")
    loaded.to(torch.device(device_kind(Trainer())))
    update = on_progress or (lambda done, total: None)
    left_out = {row.file: row.reason for row in corpus.manifest.bad}
    with folder_atomic(out) as temp:
        if about.head.kind == "segmentation" and corpus.domain.mapper:
            records = list(load(corpus.domain.mapper)(loaded, corpus, temp, formats, update))
            total = len({row.file for row in corpus.manifest})
        else:
            records = _records(loaded, corpus, temp, left_out, update)
            total = len(corpus.manifest.rows)
        _check(left_out, total, corpus.data.max_bad_fraction, path)
        found = Predictions(about.head, about.classes, about.unit, corpus_unit(corpus), tuple(records), corpus)
        write(corpus.domain, formats, loaded, found, temp)
        write_json(temp / "predictions.json", _about(about, found, left_out))
    for name, reason in left_out.items():
        log.warning("left out: %s: %s", name, reason)
    return found


def corpus_unit(corpus: Corpus) -> str:
    return next(iter(corpus.specs.values())).unit


def codes(classes: Sequence[str]) -> list[int]:
    """What stands for each class in a mask: the numbers themselves where the labels were masks of numbers."""
    return [int(c) for c in classes] if all(c.isdecimal() for c in classes) else list(range(len(classes)))


def _records(
    model: Model, corpus: Corpus, out: Path, left_out: dict[str, str], update: Callable[[int, int], None]
) -> list[Record]:
    """What is predicted of each record; those that give nothing go to `left_out`, file or key -> reason."""
    about: About = model.about
    items = predicted_items(corpus, about.head.kind, Evaluation(window=about.window, stride=about.stride))
    failed: dict[int, str] = {}
    records = []
    for record, prediction in predictions(model, items, failed):
        records.append(_record(about, corpus, record, prediction, out))
        update(record + 1, len(corpus))
    given = {r.key for r in records}
    for number, row in enumerate(corpus.rows):
        if row.key not in given:
            name = row.file if row.file not in left_out else row.key
            left_out[name] = failed.get(number, f"{row.key} holds no window of the size the model was trained on")
    return records


def _record(about: About, corpus: Corpus, record: int, prediction: Prediction, out: Path) -> Record:
    row, x = corpus.rows[record], next(iter(corpus.record(record).inputs.values()))
    extent = tuple(n * s for n, s in zip(x.shape, x.spacing, strict=True)) if x.spacing is not None else ()
    if about.head.kind == "regression":
        return Record(row.key, row.group, extent, float(prediction[0]))
    if about.head.kind == "classification":
        by_class = dict(zip(about.classes, map(float, prediction), strict=True))
        return Record(row.key, row.group, extent, about.classes[int(prediction.argmax())], by_class)
    if about.head.kind == "multilabel":
        by_class = dict(zip(about.classes, map(float, prediction), strict=True))
        likely = [name for name, p in by_class.items() if p > THRESHOLD]
        return Record(row.key, row.group, extent, BETWEEN.join(likely), by_class)
    code = np.where(x.valid.any(0), prediction.argmax(0), -1) if x.valid is not None else prediction.argmax(0)
    if len(x.shape) == 1:
        assert x.spacing is not None
        found = segments(code, prediction.max(0), about.classes, x.spacing[0])
        return Record(row.key, row.group, extent, segments=found)
    name = f"{MASKS}/{quote(row.key, safe=' ()#')}.npy"
    (out / MASKS).mkdir(exist_ok=True)
    of = np.array([*codes(about.classes), -1], np.int16)
    np.save(out / name, of[code], allow_pickle=False)
    return Record(row.key, row.group, extent, mask=name)


def _check(left_out: Mapping[str, str], total: int, max_bad: float, path: Path) -> None:
    """Raises TooManyBad above the share."""
    if len(left_out) > max_bad * total:
        raise TooManyBad(
            f"{path}: {len(left_out)} of {total} records cannot be predicted, more than --max-bad {max_bad:g} allows; the "
            f"first: {next(iter(left_out.values()))}; `inspect` lists all that cannot be read"
        )


def _about(about: About, found: Predictions, left_out: Mapping[str, str]) -> dict[str, Any]:
    masks = (
        {"codes": dict(zip(about.classes, codes(about.classes), strict=True))}
        if any(r.mask for r in found.records)
        else {}
    )
    return {
        "task": about.task,
        "classes": list(about.classes),
        "unit": about.unit,
        "axis_unit": found.axis_unit,
        "model": about.sha256,
        "records": len(found.records),
        "left_out": [{"file": name, "reason": reason} for name, reason in left_out.items()],
        **masks,
    }
