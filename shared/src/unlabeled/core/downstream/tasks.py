"""The tasks: which heads there are, and how a head and labels become a task of the records of a corpus."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import Domain, Head, RequestError, load
from unlabeled.core.contracts.recipe import nearest
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.groups import shuffled
from unlabeled.core.downstream.kinds.base import Task
from unlabeled.core.downstream.kinds.classify import Classify
from unlabeled.core.downstream.kinds.regress import Regress
from unlabeled.core.downstream.kinds.segment import Segment
from unlabeled.core.downstream.kinds.tag import Tag
from unlabeled.core.downstream.labels import read_cells, read_values
from unlabeled.core.downstream.tags import read_tags
from unlabeled.core.evaluation.labels import read_labels

# what every domain offers; a head that a domain declares under the same name takes its place
HEADS = (
    Head("classify", "classification", "macro_f1", "one class for each record, voted over its windows"),
    Head("tag", "multilabel", "macro_map", "any number of labels for each record, the mean over its windows"),
    Head("segment", "segmentation", "macro_f1", "one class for each cell of a record's grid"),
    Head("regress", "regression", "mae", "one value for each record, the mean over its windows"),
)


def heads(domain: Domain) -> dict[str, Head]:
    return {head.name: head for head in (*HEADS, *domain.heads)}


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
    if head.kind == "multilabel":
        return Tag(head, read_tags(labels, keys, elsewhere))
    if head.kind == "regression":
        return Regress(head, read_values(labels, keys, elsewhere))
    spec, *others = corpus.specs.values()
    if others or spec.layout != "dense":
        raise RequestError(f"--task {name}: segmentation needs one input on a regular grid; choose another task")
    cells = load(domain.cells)(labels, corpus) if domain.cells else None
    if cells is None:
        shapes = [corpus.shape(i) for i in range(len(corpus))]
        cells = read_cells(labels, keys, shapes, spec.spacing, elsewhere)
    return Segment(head, cells, corpus)


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
