"""Items: what a plan counts. Whole records, or windows cut out of them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import Input, RequestError, Sample
from unlabeled.core.contracts.recipe import Data, Evaluation
from unlabeled.core.data.corpus import Corpus

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Items:
    """Windows of records: record (N,) and start (N, d) in cells; size in cells, or None for whole records."""

    corpus: Corpus
    record: NDArray[np.int64]
    start: NDArray[np.int64]
    size: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.record)

    def take(self, at: NDArray[np.int64] | NDArray[np.bool_]) -> Items:
        """The items at these numbers, or where this is true."""
        return replace(self, record=self.record[at], start=self.start[at])

    def region(self, i: int) -> tuple[slice, ...]:
        """Where item i lies in its record's grid; () for a whole record."""
        if self.size is None:
            return ()
        return tuple(slice(int(s), int(s) + n) for s, n in zip(self.start[i], self.size, strict=True))

    def sample(self, i: int) -> Sample:
        """Item i. Raises BadInput where its record can no longer be read."""
        return self.stored(i).ready()

    def stored(self, i: int) -> Sample:
        """Item i, with small integers as its file has them: what a batch carries to the device."""
        record = int(self.record[i])
        sample = self.corpus.stored(record)
        if self.size is None:
            return sample.with_(index=i, record=record)
        inputs = {name: _cut(x, self.region(i)) for name, x in sample.inputs.items()}
        return sample.with_(inputs=inputs, index=i, record=record)


def _cut(x: Input, region: tuple[slice, ...]) -> Input:
    at = (slice(None), *region)
    return x.with_(data=x.data[at], valid=None if x.valid is None else x.valid[at])


def cut(
    corpus: Corpus, window: Sequence[float] | None, stride: Sequence[float] | None = None, min_valid: float = 0.5
) -> Items:
    """Windows of `window` physical units every `stride`, of which at least `min_valid` is valid; None: whole records.

    Records that give no window are named in the log. Raises RequestError where none gives any.
    """
    if window is None:
        n = len(corpus)
        return Items(corpus, np.arange(n, dtype=np.int64), np.zeros((n, 0), np.int64), None)
    spec = next(iter(corpus.specs.values()))
    if spec.layout != "dense" or spec.spacing is None:
        raise RequestError("data.window needs inputs on a regular grid; leave it out for sequences and graphs")
    if len(window) != len(spec.spacing):
        raise RequestError(
            f"data.window has {len(window)} sizes, the data have {len(spec.spacing)} axes ({', '.join(spec.axes)})"
        )
    size = _cells(window, spec.spacing)
    step = _cells(stride or window, spec.spacing)
    records: list[int] = []
    starts: list[tuple[int, ...]] = []
    short = []
    for i, row in enumerate(corpus.rows):
        x = next(iter(corpus.record(i).inputs.values()))
        before = len(starts)
        for corner in np.ndindex(*[max(0, (n - w) // s + 1) for n, w, s in zip(x.shape, size, step, strict=True)]):
            start = tuple(c * s for c, s in zip(corner, step, strict=True))
            if x.valid is not None:
                part = x.valid[(slice(None), *[slice(a, a + w) for a, w in zip(start, size, strict=True)])]
                if part.mean() < min_valid:
                    continue
            records.append(i)
            starts.append(start)
        if len(starts) == before:
            short.append(row.key)
    if not records:
        raise RequestError(
            f"{corpus.data.path}: no record holds one window of {' x '.join(f'{w:g}' for w in window)} {spec.unit} "
            f"with {min_valid:.0%} valid values; set data.window lower"
        )
    if short:
        log.warning("%d of %d records give no window: %s", len(short), len(corpus), ", ".join(short[:5]))
    return Items(corpus, np.array(records, np.int64), np.array(starts, np.int64), size)


def evaluated(corpus: Corpus, data: Data, evaluation: Evaluation) -> Items:
    """What is embedded, scored and voted over: the evaluation's windows, else the data's."""
    window, stride = evaluation.window, evaluation.stride
    if window is None:
        window, stride = data.window, stride or data.stride
    return cut(corpus, window, stride, data.min_valid)


def covering(corpus: Corpus, window: Sequence[float] | None, stride: Sequence[float] | None = None) -> Items:
    """Windows that hold every cell of every record: as `cut`, and a last one along each axis that ends with the record.

    A record shorter than the window is one item, as short as it is. None: whole records.
    """
    if window is None:
        return cut(corpus, None)
    spec = next(iter(corpus.specs.values()))
    assert spec.spacing is not None  # `cut` gave windows of this size before
    size, step = _cells(window, spec.spacing), _cells(stride or window, spec.spacing)
    records: list[int] = []
    starts: list[tuple[int, ...]] = []
    for i in range(len(corpus)):
        shape = next(iter(corpus.record(i).inputs.values())).shape
        axes = [
            sorted({*range(0, max(1, n - w + 1), s), max(0, n - w)}) for n, w, s in zip(shape, size, step, strict=True)
        ]
        here = list(product(*axes))
        records += [i] * len(here)
        starts += here
    return Items(corpus, np.array(records, np.int64), np.array(starts, np.int64), size)


def _cells(lengths: Sequence[float], spacing: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(1, round(length / step)) for length, step in zip(lengths, spacing, strict=True))
