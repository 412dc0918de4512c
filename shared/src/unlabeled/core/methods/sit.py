"""SiT: Atito et al. 2021, SiT: Self-supervised vIsion Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.contrastive import info_nce
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.gmml import GMML, Corrupted
from unlabeled.core.methods.views import crops
from unlabeled.core.nn.heads import Projector
from unlabeled.core.targets.teacher import Teacher

Pair = tuple[Corrupted, Corrupted]


class SiT(GMML):
    """GMML on two views of an item, whose pooled features shall also find what an EMA teacher sees in the other view.

    The student gets the corrupted views, the teacher the whole ones, as in the authors' code. The contrast is InfoNCE of
    each view with the teacher's projections of the other one over all items, times twice the temperature, and is the
    sum over both directions; the recovery is GMML's, the mean over the views. The trained encoder is exported.

    Deviations: those of GMML. The rotation head of the paper's first version is left out, as the authors' later code
    does: padded and oblong items cannot be turned in place. Both terms have a fixed weight, as there, and no learned one.
    The projector is SimCLR's here; theirs has three layers and a weight-normed last one. Items of one record are no
    negatives of each other unless `same_record_negatives` says so.
    """

    couples = "every item of the batch is a negative of the others, and patches of other items are put into it"

    class Options(GMML.Options):
        temperature: float = Field(0.2, gt=0, description="divides the cosines")
        weight: float = Field(1.0, ge=0, description="of the contrast, beside the recovery")
        projector: tuple[int, ...] = Field((256, 128), min_length=1, description="widths of the projector's layers")
        same_record_negatives: bool = Field(False, description="whether items of one record repel each other")
        teacher: Teacher.Options = Field(Teacher.Options(momentum=0.996), description="the EMA teacher")

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        self.projector = Projector(self.encoder.width, options.projector)
        self.teacher = Teacher(options.teacher, **self._student())

    def on_batch(self, batch: Batch, ctx: Context) -> Pair:
        (first, second), _ = crops(self, batch, ctx, 2, 0)
        return self.corrupt(first, ctx, "1"), self.corrupt(second, ctx, "2")

    def step(self, batch: Pair, ctx: Context) -> dict[str, Any]:
        (first, terms1), (second, terms2) = (self.recover(view) for view in batch)
        terms = {name: (share, (term + terms2[name][1]) / 2) for name, (share, term) in terms1.items()}
        weight, t = batch[0].weight, self.options.temperature
        target1, target2 = self.targets(batch)
        record = None if self.options.same_record_negatives else batch[0].record
        contrast = [
            info_nce(self.projector(features.pooled, weight), target, t, weight, record)
            for features, target in ((first, target2), (second, target1))
        ]
        return weighted(
            terms | {"contrast": (self.options.weight, 2 * t * (contrast[0] + contrast[1]))},
            first.pooled,
            teacher_gap=self.teacher.gap(**self._student()),
        )

    @torch.no_grad()
    def targets(self, views: Pair) -> list[Tensor]:
        """The teacher's projections (B, D) of both views, nothing corrupted."""
        encoder, projector = self.teacher["encoder"], self.teacher["projector"]
        return [projector(encoder.encode(view.tokens).pooled, view.weight) for view in views]

    def after_step(self, ctx: Context) -> None:
        self.teacher.follow(ctx.step, ctx.max_steps, **self._student())

    def _student(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "projector": self.projector}
