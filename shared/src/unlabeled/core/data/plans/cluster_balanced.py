"""Cluster-balanced batches: every cluster gives equally many items, however many it has."""

from __future__ import annotations

import numpy as np

from unlabeled.core.data.clusters import balanced_shares
from unlabeled.core.data.plans.dealing import Ids
from unlabeled.core.data.plans.label_guided import Clustered
from unlabeled.core.data.plans.parts import InParts


class ClusterBalanced(InParts):
    """Every cluster gives as many items to an epoch, and to every batch, as the others (after Vo et al. 2024).

    Large clusters give a part of their items, another one every epoch; small ones repeat theirs. One that is so small that
    its items would meet themselves in a batch gives each of them to every batch, and the others share the rest.

    Deviations: the paper balances a data set once, and no item comes twice; here every epoch is balanced, so that no item is
    lost (the curation step `balance` does as the paper). One level of clusters.
    """

    Options = Clustered

    def _counts(self, sizes: Ids, steps: int) -> Ids:
        return balanced_shares(np.asarray(sizes) * steps, steps * self.batch_size)
