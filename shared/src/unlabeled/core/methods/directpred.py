"""DirectPred: Tian et al. 2021, Understanding Self-Supervised Learning Dynamics without Contrastive Pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core import ranks
from unlabeled.core.contracts import InputSpec
from unlabeled.core.losses.distillation import regression
from unlabeled.core.losses.masked import masked_cosine
from unlabeled.core.losses.rows import present
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.views import Pair, TwoViews
from unlabeled.core.targets.features import target_std, unit
from unlabeled.core.targets.teacher import Teacher


class DirectPred(TwoViews):
    """BYOL, or without a teacher SimSiam, whose linear predictor is not learned but set from what it is given.

    F is a moving mean of z z' over the projections of both views; with F = U diag(l) U' the predictor becomes
    U diag(sqrt(l / max l) + eps) U' (eq. 18 and 19). With `kind: copy` it becomes F / |F| + eps I, |F| the largest
    eigenvalue (Wang et al. 2021, Towards Demystifying Representation Learning with Non-contrastive Self-supervision,
    DirectCopy). It is a buffer, set after the optimiser's step. The trained encoder is exported.
    A step that sets the predictor waits for the device once, since an eigenvalue solver reports there whether it
    converged; `every` says how often.

    Deviations: the predictor starts as the identity, where the authors draw one for the first step; a batch that is not
    finite or empty leaves F as it was; eigenvalues of the symmetric F are real, where the authors take the real part of
    a general solver's. Their code's DirectCopy divides by no norm, so that `eps` depends on the scale of z; the text of
    its paper could not be read, and here |F| is the spectral norm, by which both kinds give (1 + eps) I for F = I.
    `eps` is that of the authors' command. AdamW in place of SGD.
    """

    class Options(base.Options):
        projector: tuple[int, ...] = Field((512, 128), min_length=1, description="widths of the projector's layers")
        kind: Literal["pred", "copy"] = Field("pred", description="pred: roots of the eigenvalues; copy: F itself")
        rho: float = Field(0.3, ge=0, lt=1, description="share of F that stays at a step")
        eps: float = Field(0.01, gt=0, description="added to the predictor's eigenvalues, of which the largest is 1")
        every: int = Field(1, ge=1, description="steps from one setting of the predictor to the next")
        teacher: Teacher.Options | None = Field(Teacher.Options(), description="the slow copy; none: SimSiam")

    couples = "the batch norms of its projector see the whole batch"

    correlation: Tensor
    seen: Tensor
    predictor: Tensor

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        width = options.projector[-1]
        self.teacher = None if options.teacher is None else Teacher(options.teacher, **self._student())
        self.register_buffer("correlation", torch.zeros(width, width))
        self.register_buffer("seen", torch.tensor(False))
        self.register_buffer("predictor", torch.eye(width))
        self._moment = torch.zeros(())  # of the last step
        self.floor = 0.0 if self.teacher is not None else -1.0

    def step(self, batch: Pair, ctx: Context) -> dict[str, Any]:
        weight = batch[0].weight
        pooled, z1, z2 = self.project(batch)
        self._moment = second_moment(torch.cat([z1, z2]).detach(), weight.repeat(2))
        p1, p2 = (F.linear(z, self.predictor) for z in (z1, z2))
        if self.teacher is None:
            cosine = (masked_cosine(p1, z2.detach(), weight) + masked_cosine(p2, z1.detach(), weight)) / 2
            std = target_std(unit(z2) * math.sqrt(z2.shape[1]), weight)
            return weighted({"cosine": (1.0, cosine)}, pooled, target_std=std)
        with torch.no_grad():
            encoder, projector = self.teacher["encoder"], self.teacher["projector"]
            target1, target2 = (projector(encoder(view.inputs).pooled, weight) for view in batch)
        loss = regression(p1, target2, weight) + regression(p2, target1, weight)
        return weighted({"regression": (1.0, loss)}, pooled, teacher_gap=self.teacher.gap(**self._student()))

    @torch.no_grad()
    def after_step(self, ctx: Context) -> None:
        o, new = self.options, self._moment.to(self.correlation.dtype)
        # a solver given NaN raises, before the guard can take the step back
        good = new.isfinite().all() & (new != 0).any()
        moved = torch.where(self.seen, o.rho * self.correlation + (1 - o.rho) * new, new)
        self.correlation.copy_(torch.where(good, moved, self.correlation))
        self.seen.logical_or_(good)
        if ctx.step % o.every == 0:
            self.predictor.copy_(predictor(self.correlation, o.kind, o.eps))
        if self.teacher is not None:
            self.teacher.follow(ctx.progress, **self._student())

    def _student(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "projector": self.projector}


def second_moment(z: Tensor, weight: Tensor) -> Tensor:
    """Mean of z z' over rows z (B, D) of all ranks, (D, D) in at least fp32; 0 where no row has weight (B,) above 0."""
    with torch.autocast(z.device.type, enabled=False):
        rows, w = present(z, weight)
        both = ranks.total(torch.cat([((rows * w[:, None]).T @ rows).flatten(), w.sum()[None]]))
        return (both[:-1] / both[-1].clamp_min(1)).view(z.shape[1], -1)


def predictor(correlation: Tensor, kind: Literal["pred", "copy"], eps: float) -> Tensor:
    """The predictor (D, D) of a symmetric `correlation` (D, D) without negative eigenvalues; eps I where it is 0."""
    tiny = torch.finfo(correlation.dtype).tiny
    solved: tuple[Tensor, Tensor] = torch.linalg.eigh(correlation)
    values, vectors = solved
    if kind == "copy":
        eye = torch.eye(len(correlation), dtype=correlation.dtype, device=correlation.device)
        return correlation / values[-1].clamp_min(tiny) + eps * eye
    # rounding may leave an eigenvalue of 0 just below it
    shares = values.clamp_min(0) / values[-1].clamp_min(tiny)
    return (vectors * (shares.sqrt() + eps)) @ vectors.T
