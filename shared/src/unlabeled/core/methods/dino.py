"""DINO: Caron et al. 2021, Emerging Properties in Self-Supervised Vision Transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core import ranks
from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.distillation import assignments, dino
from unlabeled.core.losses.rows import present
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.views import crops, encoded
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.heads import Projector
from unlabeled.core.targets.codebooks.use import perplexity
from unlabeled.core.targets.teacher import Teacher


class Head(nn.Module):
    """(..., width) -> (..., prototypes): a projector without norms, and its output's cosines with the prototypes.

    The last layer is weight-normed with lengths fixed at 1: its rows are the prototypes, and only their directions count.
    The projector has ReLU, where the paper has GELU.
    """

    def __init__(self, width: int, sizes: tuple[int, ...], prototypes: int) -> None:
        super().__init__()
        self.projector = Projector(width, sizes, norm=False)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(prototypes, sizes[-1]), dim=1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(self.projector(x), dim=-1), F.normalize(self.prototypes, dim=1))


class DINO(Method):
    """A student shall assign every crop to the prototypes to which the teacher assigns the other, global, crops.

    The teacher is the student's slow copy and sees global crops only. Its outputs are centred, so that no prototype
    takes all, and sharpened by a low temperature, so that not all share alike. The teacher's encoder is exported. All crops
    of one size go through an encoder in one pass, as the authors' do, and its norms see them together.

    Deviations: the head has ReLU, where the authors have GELU; its last layer is unit rows with no learned length
    from the start; 4096 prototypes by default (paper: 65536), frozen for steps and not for an epoch; the
    temperature of the teacher rises by steps.
    """

    class Options(base.Options):
        prototypes: int = Field(4096, ge=2, description="outputs of the head (paper: 65536)")
        projector: tuple[int, ...] = Field((512, 512, 256), min_length=1, description="widths of the head's layers")
        local_crops: int = Field(0, ge=0, description="small crops of an item by the recipe's `local_views`")
        student_temperature: float = Field(0.1, gt=0, description="divides the student's outputs")
        first_temperature: float = Field(0.04, gt=0, description="divides the teacher's outputs, at the first step")
        teacher_temperature: float = Field(0.07, gt=0, description="and after the warm-up")
        warmup_steps: int = Field(1000, ge=1, description="over which the teacher's temperature changes, linearly")
        center_momentum: float = Field(0.9, ge=0, le=1, description="share of the centre that stays at a step")
        freeze_steps: int = Field(100, ge=0, description="during which the prototypes stay (paper: an epoch)")
        teacher: Teacher.Options = Field(Teacher.Options(), description="the slow copy")

    encoder: Encoder
    center: Tensor

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        self.head = Head(self.encoder.width, options.projector, options.prototypes)
        self.teacher = Teacher(options.teacher, encoder=self.encoder, head=self.head)
        self.register_buffer("center", torch.zeros(options.prototypes))
        # what the teacher put out since the last optimiser step, which may see its batch in parts
        self._outputs: list[Tensor] = []

    @property
    def exported(self) -> nn.Module:
        return self.teacher["encoder"]  # type: ignore[no-any-return]

    def on_batch(self, batch: Batch, ctx: Context) -> tuple[list[Batch], list[Batch]]:
        return crops(self, batch, ctx, 2, self.options.local_crops)

    def step(self, batch: tuple[list[Batch], list[Batch]], ctx: Context) -> dict[str, Any]:
        wide, small = batch
        pooled = [features.pooled for features in encoded(self.encoder.summary, wide + small)]
        with torch.no_grad():
            seen = [features.pooled for features in encoded(self.teacher["encoder"].summary, wide)]
        loss, use = self.agreement(pooled, seen, wide[0].weight, ctx)
        gap = self.teacher.gap(**self._student())
        return weighted({"dino": (1.0, loss)}, pooled[0], teacher_gap=gap, prototype_use=use)

    def agreement(
        self, pooled: Sequence[Tensor], seen: Sequence[Tensor], weight: Tensor, ctx: Context
    ) -> tuple[Tensor, Tensor]:
        """The loss between features (B, P) of the student's crops and of the teacher's, and the use of the prototypes."""
        with torch.no_grad():
            outputs = self.teacher["head"](torch.cat(list(seen))).chunk(len(seen))
            targets = [assignments(t, self.center, self.temperature(ctx)) for t in outputs]
            self._outputs.append(sums(outputs, weight))
            use = prototype_use(sums(targets, weight)[:-1])
        students = self.head(torch.cat(list(pooled))).chunk(len(pooled))
        return dino(students, targets, self.options.student_temperature, weight), use

    def temperature(self, ctx: Context) -> float:
        """The teacher's, at this step."""
        o = self.options
        return float(
            o.first_temperature + (o.teacher_temperature - o.first_temperature) * min(1.0, ctx.step / o.warmup_steps)
        )

    def after_backward(self, ctx: Context) -> None:
        if ctx.step < self.options.freeze_steps:
            self.head.prototypes.grad = None

    @torch.no_grad()
    def recentre(self, mean: Tensor) -> None:
        """Moves the centre towards the teacher's mean output (K,) of the batch."""
        self.center.lerp_(mean.to(self.center.dtype), 1 - self.options.center_momentum)

    def after_step(self, ctx: Context) -> None:
        outputs = torch.stack(self._outputs).sum(0)
        self._outputs = []
        self.recentre(outputs[:-1] / outputs[-1].clamp_min(1))
        self.teacher.follow(ctx.progress, **self._student())

    def _student(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "head": self.head}


def sums(views: Sequence[Tensor], weight: Tensor) -> Tensor:
    """Over the rows of all views (B, K) and of all ranks: their sum, and their number behind it (K + 1,)."""
    rows, w = present(torch.cat(list(views)), weight.repeat(len(views)))
    return ranks.total(torch.cat([(rows * w[:, None]).sum(0), w.sum()[None]]))


def prototype_use(assigned: Tensor) -> Tensor:
    """How many of the K prototypes are in use, as a share in [1/K, 1], 0-d, of summed assignments (K,).

    exp of the entropy of the mean assignment, over K.
    """
    return perplexity(assigned) / len(assigned)
