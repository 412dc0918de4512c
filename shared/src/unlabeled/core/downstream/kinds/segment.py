"""One class for each cell of a record's grid."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.core.contracts import Head
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.contracts.plan import Plan
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.items import Items
from unlabeled.core.data.plans import Uniform
from unlabeled.core.downstream.infer import Prediction
from unlabeled.core.downstream.kinds.base import Task
from unlabeled.core.downstream.labels import Cells
from unlabeled.core.evaluation.labels import UNLABELLED
from unlabeled.core.measures.confusion import counts
from unlabeled.core.measures.intervals import Tally


def cell_cross_entropy(out: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over the labelled cells: out (B, K, *S), target (B, *S), -1 where a cell has no label or its item none."""
    total = F.cross_entropy(out, target, ignore_index=UNLABELLED, reduction="sum")
    return total / (target != UNLABELLED).sum().clamp_min(1)


@dataclass(frozen=True)
class Segment(Task):
    """Cells without a label, and cells without data, are neither trained on nor scored."""

    head: Head
    cells: Cells
    corpus: Corpus

    @property
    def classes(self) -> tuple[str, ...]:
        return self.cells.classes

    @cached_property
    def _present(self) -> tuple[frozenset[int], ...]:
        return tuple(self.cells.present(r) for r in range(len(self.cells.masks)))

    @property
    def labelled(self) -> NDArray[np.bool_]:
        return np.array([bool(classes) for classes in self._present])

    def present(self, record: int) -> frozenset[int]:
        return self._present[record]

    def usable(self, items: Items) -> NDArray[np.bool_]:
        there = self.labelled[items.record]
        for i in np.flatnonzero(there):
            there[i] = bool((self.cells.of(int(items.record[i]), items.region(int(i))) != UNLABELLED).any())
        return there

    def plan(self, items: Items, batch_size: int) -> Plan:
        return Uniform(len(items), min(batch_size, len(items)))

    def target(self, items: Items) -> Callable[[Batch], Tensor]:
        def target(batch: Batch) -> Tensor:
            (x,) = batch.inputs.values()
            assert isinstance(x, Dense)
            wanted = torch.full((batch.size, *x.values.shape[2:]), UNLABELLED)
            for row, item in zip(wanted, batch.index.tolist(), strict=True):
                if item not in batch.failed:
                    part = self.cells.of(int(items.record[item]), items.region(item))
                    row[tuple(slice(0, n) for n in part.shape)] = torch.as_tensor(part)
            return torch.where(x.valid.any(1), wanted, UNLABELLED)

        return target

    def loss(self, out: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return cell_cross_entropy(out, target, weight)

    def decide(self, prediction: Prediction) -> NDArray[np.int64]:
        return np.asarray(prediction.argmax(0))

    def constant(self, records: NDArray[np.int64]) -> Callable[[int], NDArray[np.int64]]:
        count = np.zeros(self.outputs, np.int64)
        for r in records.tolist():
            here = self.cells.of(r)
            count += np.bincount(here[here != UNLABELLED], minlength=self.outputs)
        most = int(count.argmax())
        return lambda record: np.full(self.cells.of(record).shape, most)

    def tally(self, decided: Iterable[tuple[int, NDArray[np.int64]]], group: NDArray[np.int64], groups: int) -> Tally:
        out = np.zeros((groups, self.outputs, self.outputs), np.int64)
        for record, codes in decided:
            truth = self.cells.of(record)
            valid = next(iter(self.corpus.record(record).inputs.values())).valid
            there = truth != UNLABELLED
            if valid is not None:
                there &= valid.any(0)
            pairs = np.bincount(truth[there] * self.outputs + codes[there], minlength=self.outputs**2)
            out[group[record]] += pairs.reshape(self.outputs, self.outputs)
        return counts(out)
