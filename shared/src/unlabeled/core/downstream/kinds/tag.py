"""Any number of labels for each record."""

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
from unlabeled.core.data.plans import Uniform
from unlabeled.core.downstream.infer import Prediction
from unlabeled.core.downstream.kinds.base import Task
from unlabeled.core.downstream.tags import Tags
from unlabeled.core.measures.intervals import Tally
from unlabeled.core.measures.multilabel import histograms


def binary_cross_entropy(out: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over classes, and over the rows of weight 1: logits (B, K), target (B, K) of 0 and 1, weight (B,)."""
    loss = F.binary_cross_entropy_with_logits(out, target, reduction="none").mean(1)
    return (loss * weight).sum() / weight.sum().clamp_min(1)


@dataclass(frozen=True)
class Tag(Task):
    """A decision is the record's probabilities (K,): the metrics rank them."""

    head: Head
    tags: Tags

    @property
    def classes(self) -> tuple[str, ...]:
        return self.tags.classes

    @property
    def labelled(self) -> NDArray[np.bool_]:
        return self.tags.labelled

    def present(self, record: int) -> frozenset[int]:
        return frozenset(np.flatnonzero(self.tags.truth[record]).tolist())

    def plan(self, items: Items, batch_size: int) -> Plan:
        return Uniform(len(items), min(batch_size, len(items)))

    def target(self, items: Items) -> Callable[[Batch], Tensor]:
        truth = torch.as_tensor(self.tags.truth[items.record])
        return lambda batch: truth[batch.index].float()

    def loss(self, out: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        return binary_cross_entropy(out, target, weight)

    def decide(self, prediction: Prediction) -> Prediction:
        return prediction

    def constant(self, records: NDArray[np.int64]) -> Callable[[int], Prediction]:
        share = self.tags.truth[records].mean(0)
        return lambda record: share

    def tally(self, decided: Iterable[tuple[int, Prediction]], group: NDArray[np.int64], groups: int) -> Tally:
        pairs = list(decided)
        records = np.array([record for record, _ in pairs], np.int64)
        score = np.array([p for _, p in pairs]).reshape(-1, self.outputs)
        return histograms(self.tags.truth[records], score, group[records], groups)
