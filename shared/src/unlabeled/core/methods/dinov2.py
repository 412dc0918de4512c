"""DINOv2: Oquab et al. 2023, DINOv2: Learning Robust Visual Features without Supervision."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from unlabeled.core.losses.koleo import koleo
from unlabeled.core.losses.sinkhorn import sinkhorn
from unlabeled.core.methods.base import Context
from unlabeled.core.methods.ibot import IBOT, Crops
from unlabeled.core.nn.base import Features
from unlabeled.core.targets.teacher import Teacher


class DINOv2(IBOT):
    """iBOT whose teacher shares all items, and all hidden patches, out evenly among the prototypes, and whose features of
    different items keep a distance.

    From section 4: assignments by Sinkhorn and Knopp in place of the centre, three iterations, over both large crops and,
    by themselves, over all hidden patches of all ranks; heads of their own for items and patches; KoLeo with weight 0.1
    on what the student makes of a large crop, each of both by itself. The teacher's encoder is exported. Raises
    RequestError as iBOT.

    Deviations: those of iBOT. The nearest item of KoLeo is that of all ranks, where the authors look at the items of a rank,
    so that a run depends on its ranks; close to a duplicate its gradient is bounded (see `losses.koleo`). How much a crop
    hides is drawn for it alone, where the authors spread the shares evenly over the crops of a rank. No stochastic depth
    and no last phase at a higher resolution.
    """

    couples = "all items share the prototypes evenly, and each is kept apart from its nearest"

    class Options(IBOT.Options):
        prototypes: int = Field(4096, ge=2, description="outputs of a head (paper: 65536 or 131072)")
        shared_head: bool = Field(
            False, description="whether items and patches have one head, and so the same prototypes"
        )
        centring: Literal["sinkhorn", "mean"] = Field(
            "sinkhorn", description="sinkhorn: all prototypes get equal shares; mean: the teacher's outputs are centred"
        )
        iterations: int = Field(3, ge=1, description="of Sinkhorn and Knopp")
        koleo: float = Field(0.1, ge=0, description="weight of the distance between items")
        teacher: Teacher.Options = Field(Teacher.Options(momentum=0.992), description="the slow copy")

    def targets(self, center: str, outputs: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        o = self.options
        if o.centring == "mean":
            return super().targets(center, outputs, weight, ctx)
        return sinkhorn(outputs, self.temperature(ctx), o.iterations, weight)

    def terms(
        self, batch: Crops, seen: Features, whole: Features, ctx: Context
    ) -> tuple[dict[str, tuple[float, Tensor]], Tensor]:
        terms, use = super().terms(batch, seen, whole, ctx)
        pairs = zip(seen.pooled.chunk(2), batch.large.weight.chunk(2), strict=True)
        return terms | {"koleo": (self.options.koleo, torch.stack([koleo(z, w) for z, w in pairs]).sum())}, use
