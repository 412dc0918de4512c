"""GroCo: Shvetsova et al. 2023, Learning by Sorting: Self-supervised Learning with Group Ordering Constraints."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.sorting import groco
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, weighted
from unlabeled.core.methods.views import TwoViews, crops, encoded


class GroCo(TwoViews):
    """The views of an item shall come before the items nearest to it, when all are sorted by their nearness to a view.

    A differentiable sorting network gives every one of them its share in every place; the other views shall be in the
    last places and the nearest items in those before, in any order among themselves (section 3). Positives and negatives
    are looked up and get no gradient, as in the authors' code; the negatives of a view are the same view of other items.
    With `local_crops` the small crops are anchors and negatives, and no positives. All crops of one size go through the
    encoder in one pass.

    Deviations: the negatives are those of all ranks and an anchor has fewer where there are fewer, where the authors'
    code fails; items cut from one record are no negatives unless asked for. The projector ends without a batch norm and
    is narrower by default (paper: 2048). The authors name an exponent for the network's activation (0.25), which their
    library does not use with this one; here there is none. AdamW in place of SGD.
    """

    class Options(base.Options):
        views: int = Field(2, ge=2, description="large crops of an item, each a positive of the others")
        local_crops: int = Field(0, ge=0, description="small crops of an item by the recipe's `local_views`")
        negatives: int = Field(10, ge=1, description="nearest other items that are sorted with the positives")
        steepness: float = Field(
            1.0, gt=0, description="of the sorting network: how soon a difference of cosines is an order"
        )
        projector: tuple[int, ...] = Field(
            (512, 512, 256), min_length=1, description="widths of the projector's layers"
        )
        same_record_negatives: bool = Field(False, description="whether items of one record repel each other")

    couples = "every item of the batch is a negative of the others"

    def on_batch(self, batch: Batch, ctx: Context) -> list[Batch]:  # type: ignore[override]
        large, small = crops(self, batch, ctx, self.options.views, self.options.local_crops)
        return large + small

    def step(self, batch: list[Batch], ctx: Context) -> dict[str, Any]:
        o, first = self.options, batch[0]
        pooled = [features.pooled for features in encoded(self.encoder.summary, batch)]
        z = [self.projector(p, first.weight) for p in pooled]
        record = None if o.same_record_negatives else first.record
        loss = groco(z, o.views, o.negatives, o.steepness, first.weight, record)
        return weighted({"groco": (1.0, loss)}, pooled[0])
