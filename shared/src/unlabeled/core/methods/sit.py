"""SiT: Atito et al. 2021, SiT: Self-supervised vIsion Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.losses.contrastive import info_nce
from unlabeled.core.losses.masked import masked_cross_entropy
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.gmml import GMML, Corrupted
from unlabeled.core.methods.views import crops
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.heads import Projector
from unlabeled.core.targets.teacher import Teacher
from unlabeled.core.tokens.turns import turned


@dataclass(frozen=True)
class Turned(Corrupted):
    """A corrupted view that was turned before: by how many quarters (B,), and which items could be (B,)."""

    turns: Tensor
    able: Tensor


Pair = tuple[Corrupted, Corrupted]


class SiT(GMML):
    """GMML on two views of an item, whose pooled features shall also find what an EMA teacher sees in the other view.

    The student gets the corrupted views, the teacher the whole ones, as in the authors' code. The contrast is InfoNCE of
    each view with the teacher's projections of the other one over all items, times twice the temperature, and is the
    sum over both directions; the recovery is GMML's, the mean over the views. With a weight for `rotation` each view is
    turned by 0 to 3 quarters before it is corrupted, and the pooled features shall tell by how many: the third task of the
    paper's first version. The trained encoder is exported. Raises RequestError as GMML, and for a rotation of anything but
    one image.

    Deviations: those of GMML. The rotation is off by default, as the authors' later code has none; an item is turned within
    its own extent, and an oblong one is not, and not asked. The terms have fixed weights, as in that code, where the paper's
    first version learns them. The projector is SimCLR's here; theirs has three layers and a weight-normed last one. Items
    of one record are no negatives of each other unless `same_record_negatives` says so.
    """

    couples = "every item of the batch is a negative of the others, and patches of other items are put into it"

    class Options(GMML.Options):
        temperature: float = Field(0.2, gt=0, description="divides the cosines")
        weight: float = Field(1.0, ge=0, description="of the contrast, beside the recovery")
        rotation: float = Field(0.0, ge=0, description="weight of telling quarter turns of images (paper, v1: 1)")
        projector: tuple[int, ...] = Field((256, 128), min_length=1, description="widths of the projector's layers")
        same_record_negatives: bool = Field(False, description="whether items of one record repel each other")
        teacher: Teacher.Options = Field(Teacher.Options(momentum=0.996), description="the EMA teacher")

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        self.projector = Projector(self.encoder.width, options.projector)
        self.teacher = Teacher(options.teacher, **self._student())
        if options.rotation:
            if len(specs) > 1 or self.encoder.input_spec.layout != "dense" or self.encoder.input_spec.rank != 2:
                raise RequestError("method.rotation: only one image can be turned; set it to 0")
            self.rotation = nn.Linear(self.encoder.width, 4)

    def on_batch(self, batch: Batch, ctx: Context) -> Pair:
        (first, second), _ = crops(self, batch, ctx, 2, 0)
        return self._view(first, ctx, "1"), self._view(second, ctx, "2")

    def _view(self, batch: Batch, ctx: Context, scope: str) -> Corrupted:
        if not self.options.rotation:
            return self.corrupt(batch, ctx, scope)
        ((name, x),) = batch.inputs.items()
        assert isinstance(x, Dense)
        quarter = (4 * ctx.draw(batch, f"turn{scope}").uniform(name)).long().flatten()
        x, able = turned(x, quarter)
        corrupted = self.corrupt(batch.with_inputs(**{name: x}), ctx, scope)
        return Turned(**vars(corrupted), turns=quarter, able=able)

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
        if self.options.rotation:
            told = [self._rotation(f, v) for f, v in ((first, batch[0]), (second, batch[1]))]
            terms["rotation"] = (self.options.rotation, (told[0] + told[1]) / 2)
        return weighted(
            terms | {"contrast": (self.options.weight, 2 * t * (contrast[0] + contrast[1]))},
            first.pooled,
            teacher_gap=self.teacher.gap(**self._student()),
        )

    def _rotation(self, features: Features, view: Corrupted) -> Tensor:
        """Cross-entropy of the quarter turns, over the items that could be turned."""
        assert isinstance(view, Turned)
        return masked_cross_entropy(self.rotation(features.pooled), view.turns, view.able * view.weight)

    @torch.no_grad()
    def targets(self, views: Pair) -> list[Tensor]:
        """The teacher's projections (B, D) of both views, nothing corrupted."""
        encoder, projector = self.teacher["encoder"], self.teacher["projector"]
        return [projector(encoder.encode(view.tokens).pooled, view.weight) for view in views]

    def after_step(self, ctx: Context) -> None:
        self.teacher.follow(ctx.progress, **self._student())

    def _student(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "projector": self.projector}
