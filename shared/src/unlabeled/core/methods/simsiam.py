"""SimSiam: Chen and He 2021, Exploring Simple Siamese Representation Learning."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.losses.masked import masked_cosine
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.views import Pair, TwoViews
from unlabeled.core.nn.heads import Projector
from unlabeled.core.nn.normed_projector import NormedProjector
from unlabeled.core.targets.features import target_std, unit


class SimSiam(TwoViews):
    """From one view, predict what the same network makes of the other, which gets no gradient: no teacher, no negatives.

    Eq. 3 and 4: -cos(p1, z2) / 2 - cos(p2, z1) / 2, from 1 to -1, with z held still. The projector ends in a batch norm,
    the predictor is a bottleneck (section 3). The deviation of z / |z| times the square root of its width, which the
    paper plots (section 4.1), is reported as `target_std`: 1 where directions are uniform, 0 where all are one. It stays
    near 1 where all fall on one line, to one half or the other, as far as a collapse gets while that norm keeps their mean
    at 0; the loss then falls to -1.

    Deviations: the heads are narrower by default (paper: 2048 three times, and 512 in the predictor); the predictor's
    learning rate follows the schedule, where the authors keep it constant; a residual branch does not start at 0;
    AdamW in place of SGD.
    """

    class Options(base.Options):
        projector: tuple[int, ...] = Field(
            (512, 512, 512), min_length=1, description="widths of the projector's layers (paper: 2048)"
        )
        predictor: int = Field(128, ge=1, description="width of the predictor's hidden layer, a quarter of its output")

    couples = "the batch norms of its heads see the whole batch"
    floor = -1.0

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        width = options.projector[-1]
        self.projector = NormedProjector(self.encoder.width, options.projector)
        self.predictor = Projector(width, (options.predictor, width))

    def predict(self, z: Tensor, weight: Tensor) -> Tensor:
        """What one view says of the other, from its own projection (B, D)."""
        return self.predictor(z, weight)  # type: ignore[no-any-return]

    def still(self, z: Tensor) -> Tensor:
        """A projection as a target: without gradient. With one, few directions are left, or a single one."""
        return z.detach()

    def step(self, batch: Pair, ctx: Context) -> dict[str, Any]:
        weight = batch[0].weight
        pooled, z1, z2 = self.project(batch)
        one = masked_cosine(self.predict(z1, weight), self.still(z2), weight)
        other = masked_cosine(self.predict(z2, weight), self.still(z1), weight)
        std = target_std(unit(z2) * math.sqrt(z2.shape[1]), weight)
        return weighted({"cosine": (1.0, (one + other) / 2)}, pooled, target_std=std)
