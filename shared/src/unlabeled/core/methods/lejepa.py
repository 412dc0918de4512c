"""LeJEPA: Balestriero and LeCun 2025, Provable and Scalable Self-Supervised Learning Without the Heuristics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.decorrelation import invariance
from unlabeled.core.losses.rows import present
from unlabeled.core.losses.sigreg import sigreg, slices
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.views import crops
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.heads import Projector


class LeJEPA(Method):
    """All views of an item meet at the mean of its global views, while each view of the batch stays Gaussian.

    No teacher and no stop-gradient: the mean learns as well. Small crops are drawn to the mean and are no part of it.

    Deviations: the directions are drawn on the device from the step's key, without a counter or a wait for it;
    moments are those of all ranks in one reduction; views meet at the mean of the global ones, as in the authors'
    package, where their minimal code takes all.
    """

    class Options(base.Options):
        sigreg: float = Field(0.05, ge=0, le=1, description="weight of SIGReg, the agreement has the rest; 0 collapses")
        slices: int = Field(256, ge=1, description="directions, new at every step, along which SIGReg looks")
        global_views: int = Field(2, ge=2, description="views of an item by the recipe's `views`")
        local_crops: int = Field(0, ge=0, description="small crops of an item by the recipe's `local_views`")
        projector: tuple[int, ...] = Field(
            (512, 512, 64), min_length=1, description="widths of the projector's layers; the last one small (16 to 128)"
        )

    couples = "SIGReg looks at the distribution of the whole batch"
    encoder: Encoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        self.projector = Projector(self.encoder.width, options.projector)

    def on_batch(self, batch: Batch, ctx: Context) -> list[Batch]:
        wide, small = crops(self, batch, ctx, self.options.global_views, self.options.local_crops)
        return wide + small

    def step(self, batch: list[Batch], ctx: Context) -> dict[str, Any]:
        o, weight = self.options, batch[0].weight
        pooled = [self.encoder(view.inputs).pooled for view in batch]
        # in at least fp32 before they are averaged: the loss is in the differences to that average
        z = [present(self.projector(p, weight), weight)[0] for p in pooled]
        middle = torch.stack(z[: o.global_views]).mean(0)
        directions = slices(ctx.shared("slices"), o.slices, z[0].shape[1], z[0].device)
        return weighted(
            {
                "invariance": (1 - o.sigreg, _mean([invariance(view, middle, weight) for view in z])),
                "sigreg": (o.sigreg, _mean([sigreg(view, directions, weight) for view in z])),
            },
            pooled[0],
        )


def _mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).mean()
