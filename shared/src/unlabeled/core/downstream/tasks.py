"""The tasks: what a head is trained for, and how its predictions are scored.

A task knows the labels of the records of a corpus. R records, N items, K classes, G groups, S the grid of a record.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.core.contracts import Domain, Head, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.contracts.plan import Plan
from unlabeled.core.contracts.recipe import nearest
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.groups import shuffled
from unlabeled.core.data.items import Items
from unlabeled.core.data.plans import Uniform
from unlabeled.core.downstream.batches import Balanced
from unlabeled.core.downstream.infer import Prediction
from unlabeled.core.downstream.labels import Cells, Values, read_cells, read_values
from unlabeled.core.downstream.model import Model
from unlabeled.core.evaluation.labels import UNLABELLED, Labels, read_labels
from unlabeled.core.measures.confusion import counts, f1_of, iou_of
from unlabeled.core.measures.intervals import Statistic, Tally
from unlabeled.core.measures.regression import mae, moments, r2
from unlabeled.core.nn.base import Encoder

# what every domain offers; a head that a domain declares under the same name takes its place
HEADS = (
    Head("classify", "classification", "macro_f1", "one class for each record, voted over its windows"),
    Head("segment", "segmentation", "macro_f1", "one class for each cell of a record's grid"),
    Head("regress", "regression", "mae", "one value for each record, the mean over its windows"),
)
METRICS: dict[str, dict[str, Statistic]] = {
    "classification": {"macro_f1": f1_of},
    "segmentation": {"macro_f1": f1_of, "miou": iou_of},
    "regression": {"mae": mae, "r2": r2},
}
LOWER_IS_BETTER = {"mae"}


def heads(domain: Domain) -> dict[str, Head]:
    return {head.name: head for head in (*HEADS, *domain.heads)}


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
        total = F.cross_entropy(out, target, ignore_index=UNLABELLED, reduction="sum")
        return total / (target != UNLABELLED).sum().clamp_min(1)

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


def make_task(domain: Domain, name: str, labels: Path, corpus: Corpus) -> Task:
    """The task of this name with the labels of the corpus's records. Raises RequestError, in one sentence."""
    known = heads(domain)
    if name not in known:
        raise RequestError(f"--task: {nearest(name, list(known))}")
    head = known[name]
    keys = [row.key for row in corpus.rows]
    elsewhere = [row.key for row in corpus.manifest.bad]
    if head.kind == "classification":
        return Classify(head, read_labels(labels, keys, elsewhere))
    if head.kind == "regression":
        return Regress(head, read_values(labels, keys, elsewhere))
    spec, *others = corpus.specs.values()
    if others or spec.layout != "dense":
        raise RequestError(f"--task {name}: segmentation needs one input on a regular grid; choose another task")
    shapes = [next(iter(corpus.record(i).inputs.values())).shape for i in range(len(corpus))]
    return Segment(head, read_cells(labels, keys, shapes, spec.spacing, elsewhere), corpus)


def split(
    task: Task,
    records: NDArray[np.int64],
    groups: Sequence[str],
    share: float,
    seed: int,
    seen: Collection[str] = (),
) -> tuple[list[str], list[str]]:
    """Groups to train on and to validate on, of those that hold one of the labelled `records`, by lot; groups: (R,).

    Groups that pretraining has seen are left out only where the others do not suffice. Groups whose leaving out would take
    the last record of a class stay in training. Raises RequestError where none can be left out, or one group holds all
    labels.
    """
    of: dict[str, set[int]] = {}
    for record in records.tolist():
        of.setdefault(groups[record], set()).update(task.present(record))
    everything = set().union(*of.values())
    wanted = max(1, round(share * len(of))) if share else 0
    out: list[str] = []
    for group in sorted(shuffled(of, seed, "validation"), key=lambda name: name in seen):
        rest = [classes for name, classes in of.items() if name not in (*out, group)]
        if len(out) < wanted and rest and set().union(*rest) == everything:
            out.append(group)
    if wanted and not out:
        raise RequestError(
            f"none of the {len(of)} labelled groups can be left out to choose the best step: each holds the only records of "
            "a class, or there is but one; label more groups, or say validation=0"
        )
    return [name for name in of if name not in out], out
