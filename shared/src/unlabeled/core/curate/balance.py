"""Balance: Vo et al. 2024, Automatic Data Curation for Self-Supervised Learning: A Clustering-Based Approach."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from unlabeled.core.contracts import RequestError
from unlabeled.core.curate.base import Decision
from unlabeled.core.curate.collection import Collection
from unlabeled.core.data.clusters import chosen, hierarchical, shares


class Balance:
    """Of every cluster at most so many: large clusters give up items until all that is left is spread as evenly as can be.

    Clusters are those of hierarchical k-means of the embeddings, scaled to length 1; what is kept is shared out from the
    coarsest level down (their hierarchical sampling), and inside a cluster taken by its nearness to the centroid. The score of an item
    that is dropped is the share of its cluster that is kept.

    Deviations: no resampling between runs of k-means; levels are by default fitted to the number of items (the paper's are
    for hundreds of millions of images).
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        share: float = Field(0.5, gt=0, le=1, description="of the items, what is kept")
        levels: tuple[int, ...] = Field(
            (),
            description="clusters of each level, the finest first; none: one for every 20 items, at most 1,000, and a tenth of these",
        )
        nearness: float = Field(
            1.0,
            ge=0,
            le=1,
            description="of what is kept of a cluster, the share nearest to its centroid; else the most diverse",
        )
        seed: int = Field(0, description="of k-means and of the first pick")

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, collection: Collection, kept: NDArray[np.bool_]) -> list[Decision]:
        o, items = self.options, np.flatnonzero(kept)
        values = collection.embedded("balance")[items]
        if not len(items):
            return []
        fine = min(1000, max(1, len(items) // 20))
        levels = o.levels or (fine, max(1, fine // 10))
        if min(levels) < 1 or list(levels) != sorted(levels, reverse=True):
            raise RequestError(f"balance.levels {list(levels)} must fall from the finest to the coarsest, to 1 or more")
        clusters = hierarchical(values, levels, o.seed)
        counts = shares(clusters, max(1, round(o.share * len(items))))
        stays = np.zeros(len(items), bool)
        stays[chosen(values, clusters, counts, o.nearness, o.seed)] = True
        sizes, labels = clusters.sizes(), clusters.labels
        return [
            Decision(
                int(items[i]),
                f"cluster {labels[i]} has {sizes[labels[i]]} items, of which {counts[labels[i]]} are kept",
                score=float(counts[labels[i]] / sizes[labels[i]]),
            )
            for i in np.flatnonzero(~stays)
        ]
