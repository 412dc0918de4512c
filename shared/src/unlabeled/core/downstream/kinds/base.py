"""What every kind of task is asked, and the metrics of each kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.core.contracts import Head
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.contracts.plan import Plan
from unlabeled.core.data.items import Items
from unlabeled.core.downstream.infer import Prediction
from unlabeled.core.downstream.model import Model
from unlabeled.core.measures.confusion import f1_of, iou_of
from unlabeled.core.measures.intervals import Statistic, Tally
from unlabeled.core.measures.multilabel import macro_ap, macro_f1, micro_ap, micro_f1
from unlabeled.core.measures.regression import mae, r2
from unlabeled.core.nn.base import Encoder

METRICS: dict[str, dict[str, Statistic]] = {
    "classification": {"macro_f1": f1_of},
    "multilabel": {"macro_map": macro_ap, "micro_map": micro_ap, "macro_f1": macro_f1, "micro_f1": micro_f1},
    "segmentation": {"macro_f1": f1_of, "miou": iou_of},
    "regression": {"mae": mae, "r2": r2},
}
LOWER_IS_BETTER = {"mae"}


class Task(ABC):
    """What the training loop and the score ask of a task."""

    head: Head

    @property
    @abstractmethod
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the outputs; none for regression."""

    @property
    def unit(self) -> str:
        """Of a predicted value."""
        return ""

    @property
    def outputs(self) -> int:
        """K, or 1."""
        return len(self.classes) or 1

    @property
    @abstractmethod
    def labelled(self) -> NDArray[np.bool_]:
        """(R,) records that have a label."""

    @abstractmethod
    def present(self, record: int) -> frozenset[int]:
        """Classes of a labelled record; nothing where there are no classes."""

    @abstractmethod
    def plan(self, items: Items, batch_size: int) -> Plan:
        """Batches of items, all of which are labelled."""

    @abstractmethod
    def target(self, items: Items) -> Callable[[Batch], Tensor]:
        """What a batch of these items, on the host, should give."""

    @abstractmethod
    def loss(self, out: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """Mean over the labelled items or cells."""

    @abstractmethod
    def decide(self, prediction: Prediction) -> Any:
        """What is compared with the label of a record."""

    @abstractmethod
    def constant(self, records: NDArray[np.int64]) -> Callable[[int], Any]:
        """The baseline: decisions for any record that know these records' labels and no data."""

    @abstractmethod
    def tally(self, decided: Iterable[tuple[int, Any]], group: NDArray[np.int64], groups: int) -> Tally:
        """(G, ...) what `METRICS` are functions of, from (record, decision); group (R,) in 0 ... G - 1."""

    def fitted(self, records: NDArray[np.int64]) -> Task:
        """This task with what it takes from the labels of the training records."""
        return self

    def model(self, encoder: Encoder) -> Model:
        """An encoder with a new head for this task."""
        return Model(encoder, self.head.kind, self.outputs)

    def usable(self, items: Items) -> NDArray[np.bool_]:
        """(N,) items that have a label."""
        return self.labelled[items.record]

    def value(self, tally: Tally) -> float:
        """The head's metric, turned so that more is better."""
        value = float(METRICS[self.head.kind][self.head.metric](tally.sum(0)))
        return -value if self.head.metric in LOWER_IS_BETTER else value
