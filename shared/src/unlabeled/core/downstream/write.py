"""Predictions as files: tables that every domain has; a domain adds its own formats under `writers`."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unlabeled.core.contracts import Domain, Head, load
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.downstream.model import Model

CORE = {"parquet": f"{__name__}:parquet", "csv": f"{__name__}:table"}


@dataclass(frozen=True)
class Segment:
    """Equal labels in a row: start and stop in the unit of the axis, from the record's start; mean probability."""

    start: float
    stop: float
    label: str
    probability: float


@dataclass(frozen=True)
class Record:
    """What is predicted of one record.

    extent         physical length of each axis; () where the record lies on no grid
    prediction     a class, several (with ; between them, as they are read) or a value; None for segmentation
    probabilities  by class; empty for regression and segmentation
    segments       of a record of one axis; mask: file of the classes of all cells otherwise, below the output folder
    """

    key: str
    group: str
    extent: tuple[float, ...]
    prediction: str | float | None = None
    probabilities: Mapping[str, float] | None = None
    segments: tuple[Segment, ...] = ()
    mask: str = ""


@dataclass(frozen=True)
class Predictions:
    """All records, and what their numbers mean: the task's head, its classes, the unit of values, the unit of each axis.

    corpus  what they were read from, for a writer that needs more of them than their keys
    """

    head: Head
    classes: tuple[str, ...]
    unit: str
    axis_unit: str
    records: tuple[Record, ...]
    corpus: Corpus | None = field(default=None, compare=False, repr=False)

    def rows(self) -> tuple[str, list[str], list[list[Any]]]:
        """Name, columns and rows of the table."""
        if self.head.kind == "segmentation" and not any(r.mask for r in self.records):
            segments = [
                [r.key, r.group, s.start, s.stop, s.label, s.probability] for r in self.records for s in r.segments
            ]
            return "segments", ["key", "group", "start", "stop", "label", "probability"], segments
        if self.head.kind == "segmentation":
            return "predictions", ["key", "group", "file"], [[r.key, r.group, r.mask] for r in self.records]
        if self.head.kind == "regression":
            return "predictions", ["key", "group", "value"], [[r.key, r.group, r.prediction] for r in self.records]
        said = "labels" if self.head.kind == "multilabel" else "prediction"
        columns = ["key", "group", said, *(f"probability {name}" for name in self.classes)]
        rows = [[r.key, r.group, r.prediction, *(r.probabilities or {}).values()] for r in self.records]
        return "predictions", columns, rows


def writers(domain: Domain) -> dict[str, str]:
    """Format -> function (model, predictions, out), of the core and of the domain."""
    return {**CORE, **domain.writers}


def write(domain: Domain, formats: Sequence[str], model: Model, predictions: Predictions, out: Path) -> None:
    for name in formats:
        load(writers(domain)[name])(model, predictions, out)


def parquet(model: Model, predictions: Predictions, out: Path) -> None:
    """One row per record, or per segment."""
    name, columns, rows = predictions.rows()
    types = {
        "key": pa.string(),
        "group": pa.string(),
        "prediction": pa.string(),
        "labels": pa.string(),
        "label": pa.string(),
        "file": pa.string(),
    }
    schema = pa.schema([(c, types.get(c, pa.float64())) for c in columns])
    values = list(zip(*rows, strict=True)) or [()] * len(columns)
    table = pa.table([pa.array(v, t) for v, t in zip(values, schema.types, strict=True)], schema=schema)
    pq.write_table(table, out / f"{name}.parquet")


def table(model: Model, predictions: Predictions, out: Path) -> None:
    """The same as CSV."""
    name, columns, rows = predictions.rows()
    with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(columns)
        lines.writerows([[f"{v:.9g}" if isinstance(v, float) else v for v in row] for row in rows])


def segments(
    code: NDArray[np.int64], probability: NDArray[np.floating[Any]], classes: Sequence[str], step: float
) -> tuple[Segment, ...]:
    """Runs of equal class code (T,), each cell `step` long; no segment where it is -1. probability (T,) of that class."""
    edges = [0, *(np.flatnonzero(np.diff(code)) + 1).tolist(), len(code)]
    return tuple(
        Segment(a * step, b * step, classes[code[a]], float(probability[a:b].mean()))
        for a, b in pairwise(edges)
        if b > a and code[a] >= 0
    )
