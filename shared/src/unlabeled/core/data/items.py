"""Items: what a plan counts. Whole records, or windows cut out of them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError, Sample
from unlabeled.core.contracts.recipe import Data, Evaluation
from unlabeled.core.data.corpus import Corpus

log = logging.getLogger(__name__)


Ids = NDArray[np.int32]  # half of what int64 takes: 1e7 windows of a scene are 120 MB

# records that the log has named, by folder, window and share: a study cuts them again for every job
_named: dict[tuple[Path, tuple[float, ...], float], set[str]] = {}


@dataclass(frozen=True)
class Items:
    """Windows of records: record (N,) and start (N, d) in cells; size in cells, or None for whole records."""

    corpus: Corpus
    record: Ids
    start: Ids
    size: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.record)

    def take(self, at: NDArray[np.integer] | NDArray[np.bool_]) -> Items:
        """The items at these numbers, or where this is true."""
        return replace(self, record=self.record[at], start=self.start[at])

    @property
    def cells(self) -> tuple[int, ...] | None:
        """Size of an item in cells, of whole records the middle one along each axis; None where they lie on no grid."""
        if self.size is not None or next(iter(self.corpus.specs.values())).layout != "dense":
            return self.size
        shapes = np.array([self.corpus.shape(int(r)) for r in self.record])
        return tuple(int(n) for n in np.median(shapes, axis=0))

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
        sample = self.corpus.stored(record) if self.size is None else self.corpus.window(record, self.region(i))
        return sample.with_(index=i, record=record)


def cut(
    corpus: Corpus, window: Sequence[float] | None, stride: Sequence[float] | None = None, min_valid: float = 0.5
) -> Items:
    """Windows of `window` physical units every `stride`, of which at least `min_valid` is valid; None: whole records.

    Records that give no window are named in the log, once in a process. Raises RequestError where none gives any.
    """
    if window is None:
        n = len(corpus)
        return Items(corpus, np.arange(n, dtype=np.int32), np.zeros((n, 0), np.int32), None)
    spec = next(iter(corpus.specs.values()))
    if spec.layout != "dense" or spec.spacing is None:
        raise RequestError("data.window needs inputs on a regular grid; leave it out for sequences and graphs")
    if len(window) != len(spec.spacing):
        raise RequestError(
            f"data.window has {len(window)} sizes, the data have {len(spec.spacing)} axes ({', '.join(spec.axes)})"
        )
    size = _cells(window, spec.spacing)
    step = _cells(stride or window, spec.spacing)
    records: list[Ids] = []
    starts: list[Ids] = []
    corners: dict[tuple[int, ...], Ids] = {}  # records of one shape share them
    short = []
    for i, row in enumerate(corpus.rows):
        shape = tuple(corpus.shape(i))
        if shape not in corners:
            corners[shape] = _corners([range(0, n - w + 1, s) for n, w, s in zip(shape, size, step, strict=True)])
        here = corners[shape]
        if len(here) and not corpus.whole(i):
            valid = next(iter(corpus.record(i).inputs.values())).valid
            if valid is not None:
                here = here[_shares(valid, here, size) >= min_valid]
        if len(here) == 0:
            short.append(row.key)
            continue
        records.append(np.full(len(here), i, np.int32))
        starts.append(here)
    if not records:
        raise RequestError(
            f"{corpus.data.path}: no record holds one window of {' x '.join(f'{w:g}' for w in window)} {spec.unit} "
            f"with {min_valid:.0%} valid values; set data.window lower"
        )
    named = _named.setdefault((corpus.data.path, tuple(window), min_valid), set())
    if not named.issuperset(short):
        named.update(short)
        log.warning("%d of %d records give no window: %s", len(short), len(corpus), ", ".join(short[:5]))
    return Items(corpus, np.concatenate(records), np.concatenate(starts), size)


def _corners(axes: Sequence[Sequence[int]]) -> Ids:
    """(N, d) all combinations, the last axis fastest."""
    grids = np.meshgrid(*(np.asarray(a, np.int32) for a in axes), indexing="ij")
    return np.stack(grids, -1).reshape(-1, len(axes))


def _shares(valid: NDArray[np.bool_], starts: Ids, size: Sequence[int]) -> NDArray[np.float64]:
    """(N,) valid share of each window, from sums over all boxes that begin at the origin."""
    sums = valid.mean(0)
    for axis in range(sums.ndim):
        sums = sums.cumsum(axis)
    sums = np.pad(sums, [(1, 0)] * sums.ndim)
    total = np.zeros(len(starts))
    for ends in product((0, 1), repeat=len(size)):
        at = tuple(starts[:, a] + end * size[a] for a, end in enumerate(ends))
        total += (-1) ** (len(size) - sum(ends)) * sums[at]
    return np.asarray((total / math.prod(size)).round(9))  # sums of thirds round


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
    records: list[Ids] = []
    starts: list[Ids] = []
    for i in range(len(corpus)):
        shape = corpus.shape(i)
        here = _corners(
            [
                sorted({*range(0, max(1, n - w + 1), s), max(0, n - w)})
                for n, w, s in zip(shape, size, step, strict=True)
            ]
        )
        records.append(np.full(len(here), i, np.int32))
        starts.append(here)
    return Items(corpus, np.concatenate(records), np.concatenate(starts), size)


def _cells(lengths: Sequence[float], spacing: Sequence[float]) -> tuple[int, ...]:
    return tuple(max(1, round(length / step)) for length, step in zip(lengths, spacing, strict=True))
