"""Rank: which of several bundles to begin from, told from frozen features and a few labels, without training anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.core.bundle import load_bundle
from unlabeled.core.contracts import RequestError
from unlabeled.core.data.groups import distinct
from unlabeled.core.data.items import Items
from unlabeled.core.data.manifest import check_leaks
from unlabeled.core.evaluation.by import finite
from unlabeled.core.evaluation.embed import Embeddings
from unlabeled.core.evaluation.embed import embed as embed_items
from unlabeled.core.evaluation.evaluate import blank, opened
from unlabeled.core.evaluation.labels import read_labels
from unlabeled.core.evaluation.unseen import seen_groups, unseen
from unlabeled.core.measures.intervals import jackknife
from unlabeled.core.measures.logme import logme
from unlabeled.core.measures.ped import ped
from unlabeled.core.measures.rank import rankme
from unlabeled.core.measures.spread import uniformity
from unlabeled.core.nn.base import Encoder


@dataclass(frozen=True)
class Entry:
    """One line: features (N, P) of the items, and their record's key; seen: labelled groups that pretraining saw."""

    name: str
    features: NDArray[np.float32]
    keys: NDArray[np.str_]
    seen: list[str] | None

    def records(self, keys: Sequence[str]) -> NDArray[np.float64]:
        """(R, P) mean over the items of each record: windows of one record are no evidence apart."""
        at = {key: i for i, key in enumerate(keys)}
        inside = np.isin(self.keys, list(keys))
        of = np.array([at[key] for key in self.keys[inside]])
        total = np.zeros((len(keys), self.features.shape[1]))
        np.add.at(total, of, self.features[inside])
        return np.asarray(total / np.bincount(of, minlength=len(keys))[:, None])


def rank(
    bundles: Sequence[str | Path],
    path: str | Path,
    labels: str | Path,
    convert: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    allow_seen: bool = False,
) -> dict[str, Any]:
    """LogME, PED, RankMe and uniformity of bundles, and of their encoders with random weights, best LogME first.

    All on the same labelled records: those that every bundle can read, of groups that no pretraining has seen. LogME and PED
    are of the records' mean features; RankMe and uniformity of the items of these records. The difference of LogME to the best
    has a 95 % interval over groups, by leaving each out once: a bootstrap would draw records twice, and features as wide as
    records are few explain what is there twice far too well.

    Raises RequestError (a bundle twice, labels, no record is left), Leakage (see `evaluate`), Incompatible (files do not fit).
    """
    named = [str(b) for b in bundles]
    if len(set(named)) < len(named):
        raise RequestError("the same bundle is named twice; name each once")
    entries: list[Entry] = []
    told: dict[str, str] = {}
    groups: dict[str, str] = {}
    for name in named:
        encoder = load_bundle(name)
        items = opened(encoder, Path(path), convert, options)
        check_leaks(items.corpus.manifest)
        rows = items.corpus.rows
        known = read_labels(Path(labels), [r.key for r in rows], [r.key for r in items.corpus.manifest.bad])
        here = {r.key: known.classes[c] for r, c in zip(rows, known.codes, strict=True) if c >= 0}
        told, groups = told | here, groups | {r.key: r.group for r in rows}
        seen = seen_groups(encoder.bundle, distinct(groups[key] for key in here), Path(path), allow_seen)
        entries += [
            _entry(name, encoder, items, seen),
            _entry(f"{name}, random weights", blank(encoder), items, seen),
        ]
    labelled = distinct(groups[key] for key in told)
    saw = sorted({g for e in entries for g in e.seen or ()})
    test = unseen(saw, labelled, Path(path), allow_seen)
    common = reduce(np.intersect1d, [e.keys for e in entries]).tolist()
    keys = [key for key in told if key in set(common) and groups[key] in set(test)]
    classes = sorted({told[key] for key in keys})
    if len(classes) < 2:
        raise RequestError(
            f"{labels}: {len(keys)} labelled records of {len(test)} groups can be read by every bundle, and they have "
            f"{len(classes)} class(es), where two are needed; label more, or rank fewer bundles together"
        )
    codes = np.array([classes.index(told[key]) for key in keys])
    group = np.unique([groups[key] for key in keys], return_inverse=True)[1]
    features = [e.records(keys) for e in entries]
    scores = [logme(f, codes) for f in features]
    best = int(np.argmax(scores))

    def less(rows: NDArray[np.int64]) -> NDArray[np.float64]:
        found = np.array([logme(f[rows], codes[rows]) for f in features])
        return np.asarray(found - found[best])

    gaps = jackknife(less, group)
    lines = []
    for i in np.argsort(-np.array(scores), kind="stable"):
        entry, gap = entries[i], gaps[i]
        of_items = torch.as_tensor(entry.features[np.isin(entry.keys, keys)])
        lines.append(
            {
                "name": entry.name,
                "logme": finite(scores[i]),
                **({} if i == best else {"minus_best": gap.mean, "low": finite(gap.low), "high": finite(gap.high)}),
                "ped": finite(ped(features[i], codes)),
                "rank": round(float(rankme(of_items)), 2),
                "width": entry.features.shape[1],
                "uniformity": finite(float(uniformity(of_items))),
                "items": len(of_items),
            }
        )
    return {
        "records": len(keys),
        "classes": classes,
        "test_groups": len(np.unique(group)),
        "seen_in_pretraining": None if any(e.seen is None for e in entries) else saw,
        "rows": lines,
    }


def _entry(name: str, encoder: Encoder, items: Items, seen: list[str] | None) -> Entry:
    found: Embeddings = embed_items(encoder, items, encoder.specs)
    keys = np.array([items.corpus.rows[r].key for r in found.record])
    return Entry(name, found.values, keys, seen)


def show(found: Mapping[str, Any]) -> None:
    """The result as a table."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE, padding=(0, 1, 0, 0))
    for head in ("bundle", "LogME", "less the best\n[95 %]", "PED", "RankMe", "uniformity"):
        table.add_column(head, no_wrap=head != "bundle", overflow="fold")
    for row in found["rows"]:
        gap = ""
        if "minus_best" in row:
            ends = " (no interval)" if row["low"] is None else f" [{row['low']:+.3f}, {row['high']:+.3f}]"
            gap = f"{row['minus_best']:+.3f}{ends}"
        numbers = (f"{row['logme']:.3f}", gap, f"{row['ped']:.3f}", f"{row['rank']:.1f}", f"{row['uniformity']:.2f}")
        table.add_row(row["name"], *numbers)
    console = Console(highlight=False)
    console.print(table, markup=False)
    console.print(
        f"{found['records']} labelled records, {found['test_groups']} groups, {len(found['classes'])} classes"
    )
    if found["seen_in_pretraining"] is None:
        console.print("a bundle has another project key: nobody knows which groups it has seen")
    elif found["seen_in_pretraining"] and len(found["seen_in_pretraining"]):
        console.print(f"{len(found['seen_in_pretraining'])} labelled groups were seen in pretraining of a bundle")
