"""Barlow Twins: Zbontar et al. 2021, Barlow Twins: Self-Supervised Learning via Redundancy Reduction."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from unlabeled.core.losses.decorrelation import barlow_twins
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, weighted
from unlabeled.core.methods.views import Pair, TwoViews


class BarlowTwins(TwoViews):
    """Each dimension shall correlate with itself across the views, and with no other one.

    Deviations: the correlations of all ranks are reduced with their gradient; the authors' reduction has none, so
    that their gradient is divided by the number of ranks and their learning rate cannot be taken over; the
    projector is narrower by default; AdamW in place of LARS.
    """

    class Options(base.Options):
        off_diagonal: float = Field(0.0051, ge=0, description="weight of the correlations between dimensions")
        projector: tuple[int, ...] = Field(
            (512, 512, 512), min_length=1, description="widths of the projector's layers; wide is better (paper: 8192)"
        )

    couples = "the correlations are those of the whole batch"

    def step(self, batch: Pair, ctx: Context) -> dict[str, Any]:
        pooled, z1, z2 = self.project(batch)
        loss = barlow_twins(z1, z2, self.options.off_diagonal, batch[0].weight)
        return weighted({"barlow_twins": (1.0, loss)}, pooled)
