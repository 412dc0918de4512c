"""One value for each record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.core.contracts import Head
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.contracts.plan import Plan
from unlabeled.core.data.items import Items
from unlabeled.core.data.plans import Uniform
from unlabeled.core.downstream.infer import Prediction
from unlabeled.core.downstream.kinds.base import Task
from unlabeled.core.downstream.labels import Values
from unlabeled.core.downstream.model import Model
from unlabeled.core.measures.intervals import Tally
from unlabeled.core.measures.regression import moments
from unlabeled.core.nn.base import Encoder


@dataclass(frozen=True)
class Regress(Task):
    """offset, scale: mean and deviation of the training records' values; the head gives values in these units."""

    head: Head
    values: Values
    offset: float = 0.0
    scale: float = 1.0

    @property
    def classes(self) -> tuple[str, ...]:
        return ()

    @property
    def unit(self) -> str:
        return self.values.unit

    @property
    def labelled(self) -> NDArray[np.bool_]:
        return ~np.isnan(self.values.values)

    def present(self, record: int) -> frozenset[int]:
        return frozenset()

    def plan(self, items: Items, batch_size: int) -> Plan:
        return Uniform(len(items), min(batch_size, len(items)))

    def target(self, items: Items) -> Callable[[Batch], Tensor]:
        values = torch.as_tensor(self.values.values[items.record])
        return lambda batch: values[batch.index].float()

    def fitted(self, records: NDArray[np.int64]) -> Regress:
        known = self.values.values[records]
        return replace(self, offset=float(known.mean()), scale=float(known.std()) or 1.0)

    def model(self, encoder: Encoder) -> Model:
        model = super().model(encoder)
        model.offset.fill_(self.offset)
        model.scale.fill_(self.scale)
        return model

    def loss(self, out: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Squared error in units of the training records' deviation, so that one learning rate fits every unit."""
        error = ((out[:, 0] - target) / self.scale) ** 2
        return (error * weight).sum() / weight.sum().clamp_min(1)

    def decide(self, prediction: Prediction) -> float:
        return float(prediction[0])

    def constant(self, records: NDArray[np.int64]) -> Callable[[int], float]:
        mean = float(self.values.values[records].mean())
        return lambda record: mean

    def tally(self, decided: Iterable[tuple[int, float]], group: NDArray[np.int64], groups: int) -> Tally:
        pairs = list(decided)
        records = np.array([record for record, _ in pairs], np.int64)
        return moments(self.values.values[records], np.array([v for _, v in pairs]), group[records], groups)
