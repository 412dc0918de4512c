"""Which items stay, by hierarchical k-means of the features that the encoder has by now: what the plan `pruned` asks for."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist

from unlabeled.core import ranks
from unlabeled.core.contracts import RunFailed
from unlabeled.core.data.clusters import Values, chosen, hierarchical, shares
from unlabeled.core.data.items import Items
from unlabeled.core.data.plans.pruned import Ids, Pruned
from unlabeled.core.evaluation.embed import Embeddings, embed
from unlabeled.core.files import write_atomic
from unlabeled.core.nn.base import Encoder
from unlabeled.core.streams import rng

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choices:
    """Choices for a run, in RUN/plans/round-XXXX.parquet: of every item made a choice from, its cluster and whether it stays.

    Every rank embeds its share of the items and the first one chooses. Features are those of the encoder that a bundle
    would carry now, in evaluation mode, scaled to length 1.
    """

    items: Items
    options: Pruned.Options
    seed: int
    run: Path

    def make(self, number: int, method: Any) -> Ids:
        o, draw = self.options, rng(self.seed, "pruned", number)
        pool = np.arange(len(self.items))
        if o.subset is not None and o.subset < len(pool):
            pool = np.sort(draw.choice(pool, o.subset, replace=False))
        encoder = method.exported
        assert isinstance(encoder, Encoder)
        item, values = _gathered(embed(encoder, self.items.take(pool), encoder.specs))
        kept = [self._chosen(number, pool[item], values) if ranks.rank() == 0 else np.zeros(0, np.int64)]
        if ranks.world() > 1:
            dist.broadcast_object_list(kept, src=0)
        return np.asarray(kept[0])

    def _chosen(self, number: int, pool: Ids, values: Values) -> Ids:
        o = self.options
        clusters = hierarchical(values, o.levels, self.seed)
        counts = shares(clusters, max(1, round(o.share * len(pool))))
        stays = np.sort(chosen(values, clusters, counts, o.nearness, self.seed))
        self._write(number, pool, clusters.labels, stays)
        kept: Ids = pool[stays]
        return kept

    def _write(self, number: int, pool: Ids, labels: Ids, stays: Ids) -> None:
        kept = np.zeros(len(pool), bool)
        kept[stays] = True
        table = pa.table({"item": pool, "cluster": labels, "kept": kept})
        path = self._path(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda temp: pq.write_table(table, temp))
        log.info("round %d: %d of %d items stay", number, len(stays), len(pool))

    def sha256(self, number: int) -> str:
        return _hash(self._read(number))

    def read(self, number: int, sha256: str) -> Ids:
        table = self._read(number)
        if _hash(table) != sha256:
            raise RunFailed(f"{self._path(number)} is not what the run was trained on; start the run anew")
        kept: Ids = np.asarray(table["item"])[np.asarray(table["kept"])]
        return kept

    def _path(self, number: int) -> Path:
        return self.run / "plans" / f"round-{number:04d}.parquet"

    def _read(self, number: int) -> pa.Table:
        try:
            return pq.read_table(self._path(number))
        except (OSError, pa.ArrowInvalid) as error:
            raise RunFailed(f"{self._path(number)} cannot be read ({error}); start the run anew") from None


def _gathered(found: Embeddings) -> tuple[Ids, Values]:
    """Items and features of all ranks, in the order of the items."""
    parts = [(found.item, found.values)]
    if ranks.world() > 1:
        parts = parts * ranks.world()
        dist.all_gather_object(parts, (found.item, found.values))
    item = np.concatenate([p for p, _ in parts])
    order = np.argsort(item)
    return item[order], np.concatenate([v for _, v in parts])[order]


def _hash(table: pa.Table) -> str:
    """Of what it holds, not of how it is packed."""
    parts = [np.ascontiguousarray(table[name]).astype(np.int64).tobytes() for name in ("item", "cluster", "kept")]
    return hashlib.sha256(b"".join(parts)).hexdigest()
