"""How far every record lies from those of a folder that is known to be normal, beside simple ways to tell."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from sklearn.ensemble import IsolationForest

from unlabeled.core.bundle import load_bundle
from unlabeled.core.contracts import Leakage, RequestError
from unlabeled.core.data.groups import check_disjoint, distinct
from unlabeled.core.data.items import Items
from unlabeled.core.evaluation.embed import embed
from unlabeled.core.evaluation.evaluate import blank, opened
from unlabeled.core.evaluation.labels import UNLABELLED, read_labels
from unlabeled.core.evaluation.unseen import seen_groups
from unlabeled.core.files import free_file, outside, write_atomic
from unlabeled.core.nn.base import Encoder
from unlabeled.network.anomaly.detection import compared
from unlabeled.network.baselines import Statistics

log = logging.getLogger(__name__)

OURS = "ours"
CELLS = 1 << 22  # distances in memory at once
# which label is an anomaly
WORDS = {("anomaly", "normal"): (True, False), ("0", "1"): (False, True)}

Floats = NDArray[np.float64]
Update = Callable[[int, int], None]


def find(
    bundle: Path,
    path: Path,
    normal: Path,
    to: Path,
    labels: Path | None = None,
    neighbours: int = 5,
    convert: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    allow_seen: bool = False,
    update: Update = lambda done, total: None,
) -> dict[str, Any]:
    """Write key, group (keyed hash) and one column for each score of every record of `path`; higher is stranger.

    ours: mean distance to the `neighbours` nearest records of `normal` in the bundle's embedding, which is whitened by the
    normal records (Angiulli and Pizzuti 2002 for the score). Beside it the same of random weights and of the statistics of
    the flows, and an isolation forest on these (Liu, Ting and Zhou 2008). With labels, AUROC, average precision and the
    share found at a false alarm in a thousand, with 95 % bootstrap intervals over groups.

    Raises Leakage where both folders share a group or a record, or pretraining saw a group of `path`, unless `allow_seen`.
    RequestError (no data, too few normal records, wrong labels, `to` exists), Incompatible (the bundle refuses the files).
    """
    for data in (path, normal):
        outside(data, to)
    free_file(to)
    encoder = load_bundle(bundle)
    items, known = (opened(encoder, data, convert, options) for data in (path, normal))
    if len(known) <= neighbours:
        raise RequestError(
            f"{normal} holds {len(known)} records, and {neighbours} neighbours need more; give more normal ones, or lower "
            "--neighbours"
        )
    truth = None if labels is None else _truth(labels, items)
    seen = _seen(encoder, items, known, allow_seen)
    total = 3 if "statistics" in known.sample(0).meta else 2
    scores: dict[str, Floats] = {}
    at = near = np.zeros(0, np.int64)
    for done, (name, weights) in enumerate(((OURS, encoder), ("random weights", blank(encoder)))):
        update(done, total)
        reference, tested = (embed(weights, i, encoder.specs) for i in (known, items))
        for reason in (*reference.failed.values(), *tested.failed.values()):
            log.warning("left out: %s", reason)
        scores[name] = distances(reference.values, tested.values, neighbours)
        at, near = tested.item, reference.item
    update(2, total)
    scores |= _simple([known.sample(int(i)) for i in near], [items.sample(int(i)) for i in at], neighbours)
    rows = [items.corpus.rows[r] for r in items.record[at]]
    columns: dict[str, Any] = {"key": [r.key for r in rows], "group": [r.group for r in rows]}
    table = pa.table(columns | {("score" if name == OURS else name): s for name, s in scores.items()})
    write_atomic(to, lambda temp: pq.write_table(table, temp))
    update(total, total)
    found: dict[str, Any] = {
        "records": len(rows),
        "normal_records": len(near),
        "neighbours": neighbours,
        "seen_in_pretraining": seen,
    }
    if truth is not None:
        code = truth[items.record[at]]
        labelled = code != UNLABELLED
        groups = np.unique([r.group for r, there in zip(rows, labelled, strict=True) if there], return_inverse=True)[1]
        found |= {
            "anomalies": int((code == 1).sum()),
            "labelled": int(labelled.sum()),
            "groups": int(groups.max()) + 1,
            "scores": compared({n: s[labelled] for n, s in scores.items()}, code[labelled] == 1, groups),
        }
    return found


def distances(normal: NDArray[np.floating], tested: NDArray[np.floating], k: int) -> Floats:
    """(M,) mean Euclidean distance of `tested` (M, P) to the k nearest rows of `normal` (N, P), both whitened by `normal`.

    The covariance is shrunk towards a sphere (Ledoit and Wolf 2004), so that directions in which normal records hardly
    differ do not outweigh all others.
    """
    a, b = whitened(normal, tested)
    k = min(k, len(a))
    squares = (a**2).sum(1)
    step = max(1, CELLS // len(a))
    out = []
    for part in (b[i : i + step] for i in range(0, len(b), step)):
        square = np.maximum(squares - 2 * part @ a.T + (part**2).sum(1)[:, None], 0)
        out.append(np.sqrt(np.partition(square, k - 1, axis=1)[:, :k]).mean(1))
    return np.concatenate(out)


def whitened(normal: NDArray[np.floating], tested: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Both, turned and scaled so that `normal` has mean 0 and, but for the shrinkage, equal variance in every direction."""
    a, b = np.asarray(normal, np.float64), np.asarray(tested, np.float64)
    mean, deviation = a.mean(0), a.std(0)
    scale = np.where(deviation > 1e-12 * np.maximum(1, np.abs(mean)), deviation, 1)
    a, b = (a - mean) / scale, (b - mean) / scale
    values, vectors = np.linalg.eigh(ledoit_wolf(a, assume_centered=True)[0])
    turn = vectors / np.sqrt(np.maximum(values, max(values[-1], 1e-12) * 1e-9))
    return a @ turn, b @ turn


def _simple(normal: Sequence[Any], tested: Sequence[Any], k: int) -> dict[str, Floats]:
    """Scores by the statistics of the flows; none for a list of URLs, which has no such statistics."""
    if "statistics" not in normal[0].meta:
        return {}
    a, b = (Statistics().features(s) for s in (normal, tested))
    forest = IsolationForest(random_state=0).fit(a)
    return {"statistics": distances(a, b, k), "statistics, isolation forest": -forest.score_samples(b)}


def _seen(encoder: Encoder, items: Items, known: Items, allow_seen: bool) -> list[str] | None:
    """Groups of the tested folder that pretraining saw. Raises Leakage as `find` says."""
    where, normal = items.corpus.data.path, known.corpus.data.path
    groups = distinct(items.corpus.groups)
    seen = seen_groups(encoder.bundle, groups, where, allow_seen)
    if allow_seen:
        return seen
    both = {r.sha256 for r in items.corpus.rows} & {r.sha256 for r in known.corpus.rows}
    if both:
        raise Leakage(
            f"{len(both)} records of {where} are among the normal ones of {normal} too, and would lie at no distance from "
            "themselves; leave them out of one folder"
        )
    check_disjoint(known.corpus.groups, groups, f"{where}, whose files are compared with those of {normal} by name")
    if seen:
        raise Leakage(
            f"{len(seen)} of {len(groups)} groups of {where} were seen in pretraining; pretrain without them, give other "
            "groups, or say --allow-seen (the result then names it)"
        )
    return seen


def _truth(file: Path, items: Items) -> NDArray[np.int64]:
    """(R,) 1 for an anomaly, 0 for a normal record, -1 without a label. Raises RequestError for other words."""
    corpus = items.corpus
    labels = read_labels(file, [r.key for r in corpus.rows], [r.key for r in corpus.manifest.bad])
    if labels.classes not in WORDS:
        raise RequestError(
            f"{file}: its labels are {', '.join(labels.classes[:4])}{', ...' * (len(labels.classes) > 4)}; write anomaly and "
            "normal, or 1 and 0"
        )
    anomaly = np.array([*WORDS[labels.classes], False])  # the last for records without a label
    return np.where(labels.codes == UNLABELLED, UNLABELLED, anomaly[labels.codes])
