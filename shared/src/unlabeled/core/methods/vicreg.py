"""VICReg: Bardes et al. 2022, Variance-Invariance-Covariance Regularization for Self-Supervised Learning."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from unlabeled.core.losses.decorrelation import invariance, variance_and_covariance
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, weighted
from unlabeled.core.methods.views import Pair, TwoViews


class VICReg(TwoViews):
    """Views agree; every dimension keeps a deviation of at least 1 over the batch; dimensions do not correlate.

    Deviations: the variance term is the mean over the two views, as in the authors' code, whose weights these are,
    where eq. 6 has their sum; moments are those of all ranks; the projector is narrower by default.
    """

    class Options(base.Options):
        invariance: float = Field(25.0, ge=0, description="weight of the distance between the views")
        variance: float = Field(25.0, ge=0, description="weight of the deviations that are missing; 0 collapses")
        covariance: float = Field(1.0, ge=0, description="weight of the covariances between dimensions")
        projector: tuple[int, ...] = Field(
            (512, 512, 512), min_length=1, description="widths of the projector's layers; wide is better (paper: 8192)"
        )

    couples = "variances and covariances are those of the whole batch"

    def terms(self, z1: Tensor, z2: Tensor, weight: Tensor) -> dict[str, tuple[float, Tensor]]:
        """The weighted terms of the projections (B, D) of both views."""
        o = self.options
        (var1, cov1), (var2, cov2) = (variance_and_covariance(z, weight) for z in (z1, z2))
        return {
            "invariance": (o.invariance, invariance(z1, z2, weight)),
            # the mean over the views, as in the official code whose weights these are; eq. 6 has the sum
            "variance": (o.variance, (var1 + var2) / 2),
            "covariance": (o.covariance, cov1 + cov2),
        }

    def step(self, batch: Pair, ctx: Context) -> dict[str, Any]:
        pooled, z1, z2 = self.project(batch)
        return weighted(self.terms(z1, z2, batch[0].weight), pooled)
