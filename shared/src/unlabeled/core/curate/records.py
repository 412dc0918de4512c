"""Records of a domain as a collection: the first dense input of each, read once and brought to thumbnails."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import BadInput, Input, RequestError
from unlabeled.core.curate.collection import CELLS, Collection, Picture
from unlabeled.core.curate.pictures import LONGER
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.manifest import Progress

ENDS = (0.1, 99.9)  # percentiles of the cells of all records that become black and white


def read_records(corpus: Corpus, progress: Progress | None = None) -> Collection:
    """Signals, pictures and volumes: every record of `corpus`, in its order, on a coarse grid of 4,096 cells.

    One grey value is made of all channels: a weighted mean, the first channel the most, so that signals against a common
    average do not vanish. What is not valid is the mean of what is. One window, from the whole collection, turns values into
    grey levels, so that records stay comparable. Memory: 16 kB a record while reading, 4 kB after.

    Raises RequestError where no input lies on a grid of 1 to 3 axes.
    """
    name, rank = _gridded(corpus)
    keys, groups, digests, cells = [], [], [], []
    means: list[NDArray[np.float32]] = []
    kept: list[int] = []
    failed = {row.key if row.key else row.file: row.reason for row in corpus.manifest.bad}
    for i, row in enumerate(corpus.rows):
        try:
            values = _filled(corpus.record(i).inputs[name])
        except BadInput as error:
            failed[row.key] = str(error)
            continue
        kept.append(i)
        keys.append(row.key)
        groups.append(row.group)
        digests.append(np.frombuffer(bytes.fromhex(row.sha256), np.uint8))
        cells.append(int(np.prod(values.shape[1:])))
        means.append(coarse(_mixed(values), CELLS[rank]))
        if progress:
            progress(i + 1, len(corpus.rows))
    if not keys:
        raise RequestError(f"{corpus.data.path}: no record can be read; the first: {next(iter(failed.values()))}")
    stacked = np.stack(means)
    low, high = (float(v) for v in np.percentile(stacked, ENDS))
    scale = 255.0 / max(high - low, 1e-30)

    def grey(values: NDArray[np.float32]) -> NDArray[np.uint8]:
        return np.asarray(np.clip(np.rint((values - low) * scale), 0, 255), np.uint8)

    def read(at: int) -> Picture:
        values = _filled(corpus.record(kept[at]).inputs[name])
        longer = max(values.shape[1:])
        if longer > LONGER:
            shape = tuple(max(1, round(n * LONGER / longer)) for n in values.shape[1:])
            values = np.stack([coarse(channel, shape) for channel in values])
        return np.moveaxis(grey(values), 0, -1)

    return Collection(keys, groups, np.array(cells, np.int64), np.stack(digests), grey(stacked), None, read, failed)


def _gridded(corpus: Corpus) -> tuple[str, int]:
    for name, spec in corpus.specs.items():
        if spec.layout == "dense" and spec.spacing is not None and len(spec.spacing) in CELLS:
            return name, len(spec.spacing)
    raise RequestError(
        f"{corpus.data.path}: none of its inputs ({', '.join(corpus.specs)}) lies on a grid of 1 to 3 axes, and only such can be "
        "curated"
    )


def _filled(x: Input) -> NDArray[np.float32]:
    """(C, *S) with the mean of what is valid and finite where nothing is."""
    data = np.asarray(x.ready().data, np.float32)
    valid = np.isfinite(data)
    if x.valid is not None:
        valid &= np.broadcast_to(x.valid, data.shape)
    axes = tuple(range(1, data.ndim))
    clean = np.where(valid, data, 0)
    mean = clean.sum(axes, keepdims=True) / np.maximum(valid.sum(axes, keepdims=True), 1)
    return np.where(valid, clean, mean)


def _mixed(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(*S) of (C, *S), with weights C, C - 1, ..., 1."""
    weights = np.arange(len(values), 0, -1, dtype=np.float32)
    return np.tensordot(weights / weights.sum(), values, 1)


def coarse(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Means of `values` over the cells of a grid of `shape` laid over it; cells may hold parts of values."""
    out = values.astype(np.float64)
    for axis, cells in enumerate(shape):
        n = out.shape[axis]
        sums = np.concatenate([np.zeros_like(np.take(out, [0], axis)), np.cumsum(out, axis)], axis)
        edges = np.arange(cells + 1) * n / cells
        low = np.minimum(edges.astype(int), n - 1)
        part = (edges - low).reshape([-1 if a == axis else 1 for a in range(out.ndim)])
        at = np.take(sums, low, axis) * (1 - part) + np.take(sums, low + 1, axis) * part
        out = np.diff(at, axis=axis) * (cells / n)
    return out.astype(np.float32)
