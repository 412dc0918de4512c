"""Evaluate and embed: what the verbs of these names do, for Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from unlabeled.core.build import make_encoder
from unlabeled.core.bundle import Bundle, load_bundle
from unlabeled.core.contracts import RequestError, load
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.contracts.spec import Allowed
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.groups import distinct, folds
from unlabeled.core.data.items import Items, evaluated
from unlabeled.core.data.manifest import check_leaks
from unlabeled.core.evaluation.by import finite, lines, purities, subgroups
from unlabeled.core.evaluation.embed import embed as embed_items
from unlabeled.core.evaluation.guard import cells, check_size, check_values, fed
from unlabeled.core.evaluation.heads import Head, head_of, suits
from unlabeled.core.evaluation.knn import knn
from unlabeled.core.evaluation.labels import UNLABELLED, Labels, read_column, read_labels
from unlabeled.core.evaluation.probe import probe, vote
from unlabeled.core.evaluation.unseen import seen_groups, unseen
from unlabeled.core.files import free_file, outside, write_atomic
from unlabeled.core.measures.confusion import confusion
from unlabeled.core.measures.intervals import difference, interval
from unlabeled.core.measures.rank import rankme
from unlabeled.core.measures.spread import uniformity
from unlabeled.core.nn.base import Encoder

log = logging.getLogger(__name__)

Floats = NDArray[np.floating[Any]]

FOLDS = 5  # at most so many; fewer groups are left out one by one


def opened(
    encoder: Encoder, path: Path, convert: Sequence[str] = (), options: Mapping[str, Any] | None = None
) -> Items:
    """The evaluated items of a folder under a loaded bundle's contract. Raises as `under`."""
    corpus = under(encoder.bundle, path, convert, options)
    items = evaluated(corpus, corpus.data, encoder.bundle.evaluation)
    check_size(encoder.bundle, items)
    return items


def under(
    bundle: Bundle,
    path: Path,
    convert: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Corpus:
    """The records of a folder under a bundle's contract, read as the bundle's were but for `changes` of its `data`.

    convert: conversions allowed beyond those of the bundle. Raises Incompatible where the files do not fit it, or their values
    have another scale than those of pretraining.
    """
    how = reading(bundle.data(path), convert, options)
    corpus = Corpus.open(domain(bundle.about["domain"]), bundle.data(path, **{**how, **changes}), bundle.specs)
    check_values(corpus)
    return corpus


def reading(before: Data, convert: Sequence[str], options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Conversions allowed and options of the reader, beyond those of `before`. Raises RequestError for an unknown one."""
    unknown = sorted(set(convert) - set(get_args(Allowed)))
    if unknown:
        raise RequestError(f"--convert {', '.join(unknown)} is unknown; there are {', '.join(get_args(Allowed))}")
    return {"convert": sorted({*before.convert, *convert}), "options": {**before.options, **(options or {})}}


def embed(
    bundle: str | Path,
    path: str | Path,
    to: str | Path,
    convert: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> int:
    """Write one row per item of a folder: key, group (keyed hash), start (physical units), embedding. Returns their number.

    Raises RequestError (no data, `to` exists), Incompatible (the bundle refuses the files).
    """
    outside(Path(path), Path(to))
    free_file(Path(to))
    encoder = load_bundle(bundle)
    items = opened(encoder, Path(path), convert, options)
    found = embed_items(encoder, items, encoder.specs)
    for reason in found.failed.values():
        log.warning("left out: %s", reason)
    spacing = np.array(encoder.input_spec.spacing or (1.0,))
    rows = [items.corpus.rows[r] for r in found.record]
    start = items.start[found.item] * spacing if items.start.shape[1] else np.zeros((len(rows), 0))
    width = found.values.shape[1]
    table = pa.table(
        {
            "key": [r.key for r in rows],
            "group": [r.group for r in rows],
            "start": pa.array(start.tolist(), pa.list_(pa.float64())),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(found.values.reshape(-1)), width),
        }
    )
    write_atomic(Path(to), lambda temp: pq.write_table(table, temp))
    return len(rows)


def evaluate(
    bundle: str | Path,
    path: str | Path,
    labels: str | Path,
    convert: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    allow_seen: bool = False,
    by: Sequence[str] = (),
) -> dict[str, Any]:
    """kNN and linear probe of a bundle on labelled records, beside random weights and the field's simple baselines.

    Tested are only groups that pretraining has not seen, left out in turn, each time trained on the labels of all other
    groups. Scores are macro-F1 over records with a 95 % bootstrap interval over the test groups.
    by: further columns of the labels, as scanner, site or sex: how far neighbours share them, beside the class, and the
    probe's score of each of their values with 10 records or more.
    Raises Leakage where every labelled group was seen in pretraining and `allow_seen` is False.
    """
    encoder = load_bundle(bundle)
    items = opened(encoder, Path(path), convert, options)
    corpus = items.corpus
    known = read_labels(Path(labels), [r.key for r in corpus.rows], [r.key for r in corpus.manifest.bad])
    codes = np.where(np.isin(np.arange(len(corpus)), items.record), known.codes, UNLABELLED)
    check_leaks(corpus.manifest)
    groups = np.array(corpus.groups)
    columns = {
        name: read_column(Path(labels), name, [r.key for r in corpus.rows], [r.key for r in corpus.manifest.bad])
        for name in by
    }
    labelled = distinct(groups[codes != UNLABELLED].tolist())
    seen = seen_groups(encoder.bundle, labelled, Path(path), allow_seen)
    test = unseen(seen, labelled, Path(path), allow_seen)
    random = blank(encoder)
    trial = Trial(items, Labels(known.classes, codes), test)
    ours = embed_items(encoder, items, encoder.specs)
    trial.keep(ours.item)
    neighbours = encoder.bundle.evaluation.neighbours
    trial.score("ours, linear probe", ours.values)
    trial.score("ours, kNN", ours.values, neighbours=neighbours)
    theirs = embed_items(random, items, encoder.specs)
    trial.score("random weights, linear probe", theirs.values)
    trial.score("random weights, kNN", theirs.values, neighbours=neighbours)
    starts = {"ours": ours.values, "random weights": theirs.values}
    samples = [items.sample(int(i)) for i in ours.item]
    made: dict[str, list[NDArray[np.floating[Any]]]] = {}
    for card in corpus.domain.baselines:
        if not suits(card, corpus.data):
            continue
        try:
            if card.target not in made:
                made[card.target] = trial.fitted(load(card.target), samples)
        except RequestError as error:  # an extra that is not installed
            log.warning("without the baseline %s: %s", card.name, error)
            continue
        trial.score(card.name, made[card.target], head=head_of(card))
    return {
        "metric": "macro-F1 over records",
        "classes": list(known.classes),
        "records": int((codes != UNLABELLED).sum()),
        "unlabelled": known.unlabelled,
        "test_groups": test,
        "seen_in_pretraining": seen,
        "rank": round(float(rankme(torch.as_tensor(ours.values))), 2),
        "width": ours.values.shape[1],
        "random_rank": round(float(rankme(torch.as_tensor(theirs.values))), 2),
        "uniformity": {name: finite(float(uniformity(torch.as_tensor(x)))) for name, x in starts.items()},
        **({"purity": trial.purity(starts, trial.labels, neighbours)} if by else {}),
        "by": {
            name: {"purity": trial.purity(starts, column, neighbours), **trial.parts("ours, linear probe", column)}
            for name, column in columns.items()
        },
        "fed": fed(encoder.bundle, items),
        "scores": trial.scores(),
    }


def blank(encoder: Encoder) -> Encoder:
    """A bundle's encoder with random weights, in evaluation mode."""
    about = encoder.bundle.about
    options = {k: v for k, v in about["encoder"].items() if k != "name"}
    return make_encoder(about["encoder"]["name"], options, domain(about["domain"]), encoder.specs, seed=0).eval()


class Trial:
    """Scores of several features on one set of folds; the confusions are per test group, so that differences are paired."""

    def __init__(self, items: Items, labels: Labels, test: Sequence[str]) -> None:
        self.groups = np.array(items.corpus.groups)
        self.record, self.codes, self.classes = items.record, labels.codes, len(labels.classes)
        self.labels, self.test = labels, list(test)
        per_fold = -(-len(self.test) // FOLDS)
        self.folds = folds(test, per_fold, seed=0) if len(test) > per_fold else [tuple(test)]
        for number, fold in enumerate(self.folds):
            labels.require(
                [g for g in set(self.groups.tolist()) if g not in fold], self.groups.tolist(), f"fold {number}"
            )
        self.confusions: dict[str, NDArray[np.int64]] = {}
        self.predicted: dict[str, NDArray[np.int64]] = {}  # (R,) of the records, -1 where there is none

    def keep(self, item: NDArray[np.int64]) -> None:
        """The items that could be read; every later `score` gives features of exactly these."""
        self.record = self.record[item]

    def fitted(self, extractor: Any, samples: Sequence[Any]) -> list[NDArray[np.floating[Any]]]:
        """A baseline's features for each fold, fitted without labels on the items of the groups that stay."""
        found = []
        for fold in self.folds:
            inside = np.isin(self.groups[self.record], fold)
            model = extractor().fit([s for s, out in zip(samples, inside, strict=True) if not out])
            found.append(np.asarray(model.features(samples)))
        return found

    def score(self, name: str, given: Any, head: Head | None = None, neighbours: int | None = None) -> None:
        """Windows vote for their record by mean score. given: features (N, P), or one such array for each fold."""
        per_group = np.zeros((len(self.test), self.classes, self.classes), np.int64)
        self.predicted[name] = np.full(len(self.groups), UNLABELLED, np.int64)
        label = self.codes[self.record]
        for number, fold in enumerate(self.folds):
            features = given[number] if isinstance(given, list) else given
            inside = np.isin(self.groups[self.record], fold)
            train = ~inside & (label != UNLABELLED)
            test = inside & (label != UNLABELLED)
            if neighbours is not None:
                scores = knn(features[train], label[train], features[test], self.classes, neighbours)
            else:
                scores = probe(
                    features[train], label[train], self.record[train], features[test], self.classes, head
                ).scores
            records = np.unique(self.record[test])
            predicted = vote(scores, self.record[test], records).argmax(1)
            self.predicted[name][records] = predicted
            for group in fold:
                at = self.groups[records] == group
                per_group[self.test.index(group)] += confusion(self.codes[records[at]], predicted[at], self.classes)
        self.confusions[name] = per_group[None, None]

    def purity(self, starts: Mapping[str, Floats], column: Labels, k: int) -> dict[str, Any]:
        """By start: how far the neighbours of the test groups' items share a column."""
        at = np.isin(self.groups[self.record], self.test)
        return {name: purities(x[at], self.record[at], column, self.groups, k) for name, x in starts.items()}

    def parts(self, name: str, column: Labels) -> dict[str, Any]:
        """Scores of the records of each value of a column, of what was scored as `name`."""
        group = np.array([self.test.index(g) if g in self.test else -1 for g in self.groups])
        return subgroups(column, self.codes, self.predicted[name], group, self.classes)

    def scores(self) -> dict[str, dict[str, Any]]:
        """name -> score and interval, and the paired difference of the bundle's linear probe to it."""
        first = next(iter(self.confusions.values()))
        out: dict[str, dict[str, Any]] = {}
        for name, confusions in self.confusions.items():
            own, gain = interval(confusions, seed=0), difference(first, confusions, seed=0)
            out[name] = {"score": own.mean, "low": own.low, "high": own.high}
            if confusions is not first:
                out[name] |= {"ours_minus": gain.mean, "ours_minus_low": gain.low, "ours_minus_high": gain.high}
        return out


def show(found: dict[str, Any]) -> None:
    """The result as a table."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table

    table = Table("start", f"{found['metric']}\n[95 %]", "ours minus it\n[95 %]", box=SIMPLE, padding=(0, 1, 0, 0))
    for name, s in found["scores"].items():
        gain = (s["ours_minus"], s["ours_minus_low"], s["ours_minus_high"]) if "ours_minus" in s else None
        said = "" if gain is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*gain)
        table.add_row(name, f"{s['score']:.3f} [{s['low']:.3f}, {s['high']:.3f}]", said)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{found['records']} labelled records, {len(found['test_groups'])} test groups, rank {found['rank']} of {found['width']}"
    )
    even = ", ".join(f"{start} {value:.2f}" for start, value in found["uniformity"].items() if value is not None)
    console.print(f"uniformity (less is more even): {even}; rank of random weights {found['random_rank']}")
    for line in lines(found["by"], found["purity"]) if found["by"] else []:
        console.print(line, markup=False)
    known = found["fed"]
    sizes = (known["pretraining_cells"], known["cells"])
    before, now = (f"{cells(size)} cells" if size else "size unknown" for size in sizes)
    normalised = ", ".join(f"{name} by {method}" for name, method in known["normaliser"].items())
    console.print(f"pretraining: {before}; here: {now}; normalised: {normalised}")
    if found["seen_in_pretraining"] is None:
        console.print("the bundle has another project key: nobody knows which groups it has seen")
    elif seen := set(found["seen_in_pretraining"]) & set(found["test_groups"]):
        console.print(f"{len(seen)} of the test groups were seen in pretraining")
