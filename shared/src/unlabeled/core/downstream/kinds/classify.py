"""One class for each record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.core.contracts import Head
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.contracts.plan import Plan
from unlabeled.core.data.items import Items
from unlabeled.core.downstream.batches import Balanced
from unlabeled.core.downstream.infer import Prediction
from unlabeled.core.downstream.kinds.base import Task
from unlabeled.core.evaluation.labels import UNLABELLED, Labels
from unlabeled.core.measures.confusion import counts
from unlabeled.core.measures.intervals import Tally


def cross_entropy(out: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over the rows of weight 1: out (B, K), target (B,), weight (B,)."""
    loss = F.cross_entropy(out, target, reduction="none")
    return (loss * weight).sum() / weight.sum().clamp_min(1)


@dataclass(frozen=True)
class Classify(Task):
    head: Head
    labels: Labels

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels.classes

    @property
    def labelled(self) -> NDArray[np.bool_]:
        return np.asarray(self.labels.codes != UNLABELLED)

    def present(self, record: int) -> frozenset[int]:
        return frozenset({int(self.labels.codes[record])} - {UNLABELLED})

    def plan(self, items: Items, batch_size: int) -> Plan:
        return Balanced(self.labels.codes[items.record], batch_size)

    def target(self, items: Items) -> Callable[[Batch], Tensor]:
        codes = torch.as_tensor(self.labels.codes[items.record])
        return lambda batch: codes[batch.index]

    def loss(self, out: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return cross_entropy(out, target, weight)

    def decide(self, prediction: Prediction) -> int:
        return int(prediction.argmax())

    def constant(self, records: NDArray[np.int64]) -> Callable[[int], int]:
        most = int(np.bincount(self.labels.codes[records]).argmax())
        return lambda record: most

    def tally(self, decided: Iterable[tuple[int, int]], group: NDArray[np.int64], groups: int) -> Tally:
        out = np.zeros((groups, self.outputs, self.outputs), np.int64)
        for record, code in decided:
            out[group[record], self.labels.codes[record], code] += 1
        return counts(out)
