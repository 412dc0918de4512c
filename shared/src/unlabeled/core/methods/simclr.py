"""SimCLR: Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from unlabeled.core.losses.contrastive import nt_xent
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, weighted
from unlabeled.core.methods.views import Pair, TwoViews


class SimCLR(TwoViews):
    """Two views of an item shall be closer than those of different items.

    Deviations: the temperature is 0.2 by default (paper: 0.1 for its large batches); items cut from one record are
    no negatives of each other unless asked for; AdamW in place of LARS.
    """

    class Options(base.Options):
        temperature: float = Field(0.2, gt=0, description="divides the cosines")
        projector: tuple[int, ...] = Field((256, 128), min_length=1, description="widths of the projector's layers")
        same_record_negatives: bool = Field(False, description="whether items of one record repel each other")

    couples = "every item of the batch is a negative of the others"

    def step(self, batch: Pair, ctx: Context) -> dict[str, Any]:
        o, first = self.options, batch[0]
        pooled, z1, z2 = self.project(batch)
        record = None if o.same_record_negatives else first.record
        return weighted({"nt_xent": (1.0, nt_xent(z1, z2, o.temperature, first.weight, record))}, pooled)
