"""MoCo v3: Chen et al. 2021, An Empirical Study of Training Self-Supervised Vision Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.losses.contrastive import info_nce
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.views import Pair, TwoViews
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.normed_projector import NormedProjector
from unlabeled.core.targets.teacher import Teacher


class MoCoV3(TwoViews):
    """Predict from each view what a slow copy makes of the other, closer than what it makes of the batch's other items.

    Alg. 1: the loss is 2 t times the cross-entropy, for both views, and there is no queue. Section 4.2: the patches of a
    token encoder are projected as at the start, which keeps the training of a transformer from breaking down; an encoder
    without patches learns whole. The trained encoder is exported, as in the paper.

    Deviations: items of one record are no negatives of each other unless asked for; the heads are narrower by default
    (paper: 4096, 4096, 256, and 4096 in the predictor); AdamW for every encoder, where the authors use LARS for ResNets.
    """

    class Options(base.Options):
        temperature: float = Field(0.2, gt=0, description="divides the cosines (paper: 0.2, for ResNets 1)")
        projector: tuple[int, ...] = Field(
            (512, 512, 128), min_length=1, description="widths of the projector's layers"
        )
        predictor: int = Field(512, ge=1, description="width of the predictor's hidden layer")
        same_record_negatives: bool = Field(False, description="whether items of one record repel each other")
        freeze_patches: bool = Field(
            True, description="whether a token encoder projects patches as at the start; no effect on others"
        )
        teacher: Teacher.Options = Field(Teacher.Options(momentum=0.99), description="the slow copy")

    couples = "every item of the batch is a negative of the others"

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        width = options.projector[-1]
        self.projector = NormedProjector(self.encoder.width, options.projector)
        self.predictor = NormedProjector(width, (options.predictor, width))
        if options.freeze_patches and isinstance(encoder, TokenEncoder):
            encoder.project.requires_grad_(False)
        self.teacher = Teacher(options.teacher, **self._student())

    def step(self, batch: Pair, ctx: Context) -> dict[str, Any]:
        o, first = self.options, batch[0]
        weight, record = first.weight, None if o.same_record_negatives else first.record
        pooled, *projections = self.project(batch)
        queries = [self.predictor(z, weight) for z in projections]
        with torch.no_grad():
            encoder, projector = self.teacher["encoder"], self.teacher["projector"]
            keys = [projector(encoder(view.inputs).pooled, weight) for view in batch]
        terms = [info_nce(q, k, o.temperature, weight, record) for q, k in zip(queries, reversed(keys), strict=True)]
        gap = self.teacher.gap(**self._student())
        return weighted({"info_nce": (2 * o.temperature, terms[0] + terms[1])}, pooled, teacher_gap=gap)

    def after_step(self, ctx: Context) -> None:
        self.teacher.follow(ctx.progress, **self._student())

    def _student(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "projector": self.projector}
