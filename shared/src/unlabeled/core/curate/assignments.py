"""Which cluster every item of a run is of: what the plans `label_guided` and `cluster_balanced` ask for."""

from __future__ import annotations

import csv
import hashlib
import logging
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from unlabeled.core.bundle import start_encoder
from unlabeled.core.contracts import Absent, Incompatible, RequestError, RunFailed
from unlabeled.core.contracts.plan import Plan
from unlabeled.core.contracts.recipe import Named, Recipe
from unlabeled.core.data.clusters import hierarchical
from unlabeled.core.data.items import Items
from unlabeled.core.data.plans.dealing import NOWHERE, Ids
from unlabeled.core.data.plans.label_guided import Clustered
from unlabeled.core.evaluation.embed import embed
from unlabeled.core.files import write_atomic
from unlabeled.core.launch import leader
from unlabeled.core.training.fit import device_kind

log = logging.getLogger(__name__)


def assigned(recipe: Recipe, items: Items, run: Path, options: Clustered) -> Ids:
    """(N,) the cluster of every item, -1 of one that cannot be read; from 0 to the number of clusters.

    Made once, by the first rank, and kept in RUN/plans/clusters.parquet, from where a resume and the other ranks read it.
    Raises RequestError (a file that does not fit the data), Absent and Incompatible (weights), RunFailed (what was kept is
    not of these items).
    """
    path = run / "plans" / "clusters.parquet"
    if leader() and not path.exists():
        made = _of_file(Path(options.file), items) if options.file else _of_features(recipe, items, options)
        path.parent.mkdir(exist_ok=True)
        table = pa.table({"item": np.arange(len(items)), "cluster": made})
        write_atomic(path, lambda temp: pq.write_table(table, temp))
        log.info("%d items are in %d clusters", int((made != NOWHERE).sum()), int(made.max()) + 1)
    while not path.exists():  # the first rank may still be at it
        time.sleep(0.1)
    try:
        table = pq.read_table(path)
        item, cluster = (np.asarray(table[name]).astype(np.int64) for name in ("item", "cluster"))
    except (OSError, KeyError, pa.ArrowInvalid) as error:
        raise RunFailed(f"{path} cannot be read ({error}); start the run anew") from None
    if not np.array_equal(item, np.arange(len(items))):
        raise RunFailed(f"{path} is not of the {len(items)} items of this run; start the run anew")
    return cluster


def _of_features(recipe: Recipe, items: Items, options: Clustered) -> Ids:
    """By k-means of the features of an encoder, in evaluation mode, under the normaliser of these data."""
    assert options.bundle is not None and options.clusters is not None
    corpus = items.corpus
    try:
        encoder = start_encoder(options.bundle, corpus.domain, corpus.specs, Named(name="tokens"), recipe.seed)
    except (Absent, Incompatible, RequestError) as error:
        raise type(error)(f"plan.bundle: {str(error).removeprefix('start: ')}") from None
    found = embed(encoder.to(torch.device(device_kind(recipe.trainer))), items, corpus.specs)
    for item, reason in sorted(found.failed.items()):
        log.warning("item %d is in no cluster, and is never drawn: %s", item, reason)
    out = np.full(len(items), NOWHERE, np.int64)
    out[found.item] = hierarchical(found.values, (options.clusters,), recipe.seed).labels
    return out


def _of_file(file: Path, items: Items) -> Ids:
    """An item is in the cluster of its record; the file may name other records too."""
    of = _lines(file)
    keys = [items.corpus.rows[int(r)].key for r in items.record]
    lost = sorted({k for k in keys if k not in of})
    if lost:
        raise RequestError(f"{file}: it names no cluster for {len(lost)} records ({', '.join(lost[:3])}); add them")
    _, label = np.unique([of[k] for k in keys], return_inverse=True)
    return label.astype(np.int64)


def _lines(file: Path) -> Mapping[str, str]:
    try:
        if file.suffix == ".parquet":
            rows = pq.read_table(file, columns=["key", "cluster"]).to_pylist()
        else:
            with file.open(newline="", encoding="utf-8-sig") as stream:
                rows = list(csv.DictReader(stream))
        return {str(row["key"]): str(row["cluster"]) for row in rows}
    except (OSError, KeyError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise RequestError(
            f"plan.file: {file} gives no clusters ({' '.join(str(error).split())[:120]}); name a parquet or CSV file with "
            "the columns key and cluster"
        ) from None


@dataclass(frozen=True)
class Recorded:
    """A plan that depends on clusters which the run keeps in a file; every checkpoint names them by their hash."""

    plan: Plan
    cluster: Ids

    def __call__(self, seed: int, epoch: int, without: Set[int] = frozenset()) -> list[Ids]:
        return self.plan(seed, epoch, without)

    def steps(self, epoch: int, without: Set[int] = frozenset()) -> int:
        return self.plan.steps(epoch, without)

    def known(self, epoch: int) -> bool:
        return True

    def renew(self, epoch: int, method: object) -> None:
        """Nothing is chosen later."""

    def state(self) -> list[str]:
        return [hashlib.sha256(np.ascontiguousarray(self.cluster, np.int64).tobytes()).hexdigest()]

    def restore(self, state: list[str]) -> None:
        if state != self.state():
            raise RunFailed("plans/clusters.parquet is not what the run was trained on; start the run anew")
