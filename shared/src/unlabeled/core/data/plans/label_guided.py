"""Label-guided batches: no two items of a batch are of one cluster, so that none is the other's false negative."""

from __future__ import annotations

from collections.abc import Set

import numpy as np
from pydantic import Field

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Strict
from unlabeled.core.data.plans.dealing import NOWHERE, Ids, dealt
from unlabeled.core.streams import rng


class Clustered(Strict):
    """Where the clusters of a plan come from."""

    bundle: str | None = Field(
        None, description="whose features are clustered: a bundle's folder, stage:NAME, timm:NAME or a weight file"
    )
    clusters: int | None = Field(None, ge=2, description="with bundle: how many, at most, by k-means")
    file: str | None = Field(None, description="or: parquet or CSV with the columns key and cluster, of every record")

    def check(self) -> None:
        """Raises RequestError unless one place is named that clusters come from, and all of it."""
        if (self.bundle is None) == (self.file is None):
            raise RequestError(
                "plan: clusters come from a bundle's features or from a file; give either plan.bundle or plan.file"
            )
        if (self.bundle is None) != (self.clusters is None):
            raise RequestError(
                "plan.clusters: it says into how many plan.bundle's features are clustered; give both or none"
            )


class LabelGuided:
    """At most one item of each cluster in a batch (Chakraborty et al. 2020, G-SimCLR).

    Every item at most once an epoch. An epoch has as many batches as can be made of the clusters; a cluster that has more
    items than there are batches gives as many, by lot, and its others wait for another epoch, as do those that are left
    over. With a cluster for every item it draws as the plan `uniform`. Items of the cluster -1 are never drawn.

    Raises RequestError where a batch is larger than there are clusters.

    Deviations: clusters are those of any encoder's features, or of a file, where the paper's are of a denoising
    autoencoder that it trains for it (a stage of the recipe, here).
    """

    Options = Clustered

    def __init__(self, cluster: Ids, batch_size: int) -> None:
        self.cluster, self.batch_size = cluster, batch_size
        self.check(len(np.unique(cluster[cluster != NOWHERE])), batch_size)

    @staticmethod
    def check(clusters: int, batch_size: int) -> None:
        if batch_size > clusters:
            raise RequestError(
                f"plan: label_guided takes one item of a cluster into a batch, and there are {clusters} clusters for a "
                f"batch_size of {batch_size}; set batch_size to {clusters} or lower, or plan.clusters higher"
            )

    def _usable(self, without: Set[int]) -> Ids:
        ids = np.flatnonzero(self.cluster != NOWHERE)
        return ids[~np.isin(ids, list(without))] if without else ids

    def _steps(self, sizes: Ids) -> int:
        """The most batches: each cluster fills one place in each of them at most."""
        low, high = 0, int(sizes.sum()) // self.batch_size
        while low < high:
            middle = (low + high + 1) // 2
            if np.minimum(sizes, middle).sum() >= middle * self.batch_size:
                low = middle
            else:
                high = middle - 1
        return low

    def __call__(self, seed: int, epoch: int, without: Set[int] = frozenset()) -> list[Ids]:
        draw, ids = rng(seed, "label guided", epoch), self._usable(without)
        ids = draw.permutation(ids)
        _, label, sizes = np.unique(self.cluster[ids], return_inverse=True, return_counts=True)
        steps = self._steps(sizes)
        ids = ids[
            np.argsort(draw.permutation(len(sizes))[label], kind="stable")
        ]  # cluster by cluster, each in random order
        _, first, label = np.unique(self.cluster[ids], return_index=True, return_inverse=True)
        ids = ids[np.arange(len(ids)) - first[label] < steps]
        kept = np.sort(draw.permutation(len(ids))[: steps * self.batch_size])
        return dealt(ids[kept], steps, draw)

    def steps(self, epoch: int, without: Set[int] = frozenset()) -> int:
        return self._steps(np.unique(self.cluster[self._usable(without)], return_counts=True)[1])
