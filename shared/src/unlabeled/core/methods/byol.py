"""BYOL: Grill et al. 2020, Bootstrap Your Own Latent: A New Approach to Self-Supervised Learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.losses.distillation import regression
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.views import Pair, TwoViews
from unlabeled.core.nn.heads import Projector
from unlabeled.core.targets.teacher import Teacher


class BYOL(TwoViews):
    """From one view, predict what a slow copy of the network sees in the other; no item is compared with another one.

    The trained encoder is exported, as in the paper (its online network).

    Deviations: batch norms of the heads see all ranks; the heads are narrower by default (paper: 4096 and 256);
    AdamW in place of LARS.
    """

    class Options(base.Options):
        projector: tuple[int, ...] = Field((512, 128), min_length=1, description="widths of the projector's layers")
        predictor: int = Field(512, ge=1, description="width of the predictor's hidden layer")
        teacher: Teacher.Options = Field(Teacher.Options(), description="the slow copy")

    couples = "the batch norms of its heads see the whole batch"

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        width = options.projector[-1]
        self.predictor = Projector(width, (options.predictor, width))
        self.teacher = Teacher(options.teacher, encoder=self.encoder, projector=self.projector)

    def predict(self, z: Tensor, weight: Tensor) -> Tensor:
        """What the student says of the other view, from its own (B, D)."""
        return self.predictor(z, weight)  # type: ignore[no-any-return]

    @torch.no_grad()
    def targets(self, views: Pair) -> list[Tensor]:
        """The teacher's projections (B, D) of both views, without gradient."""
        encoder, projector = self.teacher["encoder"], self.teacher["projector"]
        return [projector(encoder(view.inputs).pooled, view.weight) for view in views]

    def step(self, batch: Pair, ctx: Context) -> dict[str, Any]:
        weight = batch[0].weight
        pooled, z1, z2 = self.project(batch)
        target1, target2 = self.targets(batch)
        one = regression(self.predict(z1, weight), target2, weight)
        other = regression(self.predict(z2, weight), target1, weight)
        return weighted({"regression": (1.0, one + other)}, pooled, teacher_gap=self.teacher.gap(**self._student()))

    def after_step(self, ctx: Context) -> None:
        self.teacher.follow(ctx.progress, **self._student())

    def _student(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "projector": self.projector}
