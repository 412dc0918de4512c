"""DCL: Yeh et al. 2022, Decoupled Contrastive Learning."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from unlabeled.core.losses.contrastive import dcl
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, weighted
from unlabeled.core.methods.views import Pair, TwoViews


class DCL(TwoViews):
    """SimCLR whose positive is taken out of the denominator, so that small batches learn too.

    Deviations: what is taken out of a denominator is taken out whole, where the authors add log(1e-45), through
    which an item's own similarity leaks at temperatures below 0.01; items cut from one record are no negatives
    unless asked for.
    """

    class Options(base.Options):
        temperature: float = Field(0.1, gt=0, description="divides the cosines")
        sigma: float | None = Field(
            None, gt=0, description="weights of DCLW: pairs that agree already pull less, sharper when small; none: DCL"
        )
        projector: tuple[int, ...] = Field((256, 128), min_length=1, description="widths of the projector's layers")
        same_record_negatives: bool = Field(False, description="whether items of one record repel each other")

    couples = "every item of the batch is a negative of the others"

    def step(self, batch: Pair, ctx: Context) -> dict[str, Any]:
        o, first = self.options, batch[0]
        pooled, z1, z2 = self.project(batch)
        record = None if o.same_record_negatives else first.record
        return weighted({"dcl": (1.0, dcl(z1, z2, o.temperature, first.weight, record, o.sigma))}, pooled)
