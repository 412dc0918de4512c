"""Lee et al. 2023, Self-Distillation for Further Pre-training of Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import nn

from unlabeled.core.contracts import Incompatible, InputSpec
from unlabeled.core.losses.masked import masked_mse
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.mae import MAE, Masked
from unlabeled.core.methods.taught import Learning, needed, token_teacher
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.encoder import TokenEncoder


class SelfDistillation(MAE):
    """MAE whose features shall stay close to those of a frozen teacher: a regulariser for further pretraining.

    The teacher began with the weights the student begins with, and went on with plain MAE on the same data (the paper's
    first stage, a stage of the recipe here). The loss is that of MAE plus `weight` times the mean over items of
    |h - h_teacher|^2, summed over D (the paper's L_Distill). h is the pooled feature of the whole item, nothing hidden,
    as the authors' code takes the class token after the final norm. They give both terms the weight 1.

    Deviations: the pooled feature may be a mean of tokens, where the authors take the class token; both terms have
    the weight 1, as there.
    """

    class Options(MAE.Options, Learning):
        weight: float = Field(1.0, gt=0, description="of the distance to the teacher, beside MAE's loss")

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        self.teacher: TokenEncoder | None = None

    def take_teacher(self, encoder: Encoder) -> None:
        """Take `encoder` as the teacher and freeze it. Raises Incompatible where its features are not the student's kind."""
        teacher, student = token_teacher(encoder, self.encoder), self.encoder
        if (teacher.width, teacher.scale) != (student.width, student.scale):
            raise Incompatible(
                "method.teacher: its positions or width differ from the student's; "
                "give the recipe the encoder options of the teacher's bundle"
            )
        self.teacher = teacher

    def step(self, batch: Masked, ctx: Context) -> dict[str, Any]:
        teacher = needed(self.teacher, "self_distillation")
        terms, _ = self._terms(batch)
        whole = {n: t.followed_by(batch.hidden[n]) for n, t in batch.visible.items()}
        pooled = self.encoder.encode(whole).pooled
        with torch.no_grad():
            target = teacher.encode(whole).pooled
        distance = self.encoder.width * masked_mse(pooled, target, batch.weight[:, None])
        return weighted(terms | {"distance": (self.options.weight, distance)}, pooled)
