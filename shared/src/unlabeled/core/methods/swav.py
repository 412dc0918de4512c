"""SwAV: Caron et al. 2020, Unsupervised Learning of Visual Features by Contrasting Cluster Assignments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core import ranks
from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.distillation import dino
from unlabeled.core.losses.sinkhorn import sinkhorn
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.dino import prototype_use, sums
from unlabeled.core.methods.views import crops, encoded
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.heads import Projector
from unlabeled.core.targets.features import unit
from unlabeled.core.targets.queue import Queue


class SwAV(Method):
    """Every crop shall predict the prototypes to which the other, global, crops of the item were assigned.

    Assignments share the items of the batch equally among the prototypes (Sinkhorn, section 3.1), so that no prototype
    takes all. The loss is eq. 2 over all pairs of a global crop and another one (section 3.2, multi-crop), which is also
    DINO's. All crops of one size go through the encoder in one pass, and all crops through the projector. Where batches
    are small, a queue of former projections is shared out with them (section 5.1). The vital sign `prototype_use` is that
    of the scores alone: after Sinkhorn all prototypes are in use whatever happens.

    Deviations: a queue serves from its first row on, the authors' once it is full; 512 prototypes by default (paper: 3000)
    and no small crops (paper: 6), frozen for steps and not for an epoch; scores and Sinkhorn in fp32, the authors'
    scores in half precision; AdamW in place of SGD with LARC.
    """

    class Options(base.Options):
        prototypes: int = Field(512, ge=2, description="among which items are shared (paper: 3000)")
        projector: tuple[int, ...] = Field(
            (512, 128), min_length=1, description="widths of the projector's layers (paper: 2048, 128)"
        )
        local_crops: int = Field(0, ge=0, description="small crops of an item by the recipe's `local_views` (paper: 6)")
        temperature: float = Field(0.1, gt=0, description="divides the scores that predict")
        sinkhorn_temperature: float = Field(0.05, gt=0, description="divides the scores that are assigned")
        sinkhorn_iterations: int = Field(3, ge=1, description="the more, the more equal the shares")
        freeze_steps: int = Field(100, ge=0, description="during which the prototypes stay (paper: an epoch)")
        queue: int = Field(0, ge=0, description="former projections that are shared out too (paper: 3840, if at all)")
        queue_from: int = Field(0, ge=0, description="the step from which on the queue is used (paper: epoch 15)")

    couples = "the prototypes are shared among the items of the whole batch"
    encoder: Encoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        width = options.projector[-1]
        self.projector = Projector(self.encoder.width, options.projector)
        self.prototypes = nn.Parameter(F.normalize(torch.randn(options.prototypes, width), dim=1))
        # one of each global crop, as each is shared out by itself
        self.queues = nn.ModuleList(Queue(options.queue, width) for _ in range(2) if options.queue)
        self._projected: list[tuple[Tensor, Tensor]] = []

    def on_batch(self, batch: Batch, ctx: Context) -> tuple[list[Batch], list[Batch]]:
        return crops(self, batch, ctx, 2, self.options.local_crops)

    def step(self, batch: tuple[list[Batch], list[Batch]], ctx: Context) -> dict[str, Any]:
        o, (wide, small) = self.options, batch
        weight = wide[0].weight
        pooled = [features.pooled for features in encoded(self.encoder.summary, wide + small)]
        z = unit(self.projector(torch.cat(pooled), weight.repeat(len(pooled)))).chunk(len(pooled))
        scores = [self.score(rows) for rows in z]
        self._projected = [(rows.detach(), weight) for rows in z[: len(wide)]]
        with torch.no_grad():
            queues: Any = self.queues if self._queueing(ctx) else [None] * len(wide)
            targets = [self._target(s, weight, queue) for s, queue in zip(scores[: len(wide)], queues, strict=True)]
            alone = [(s / o.sinkhorn_temperature).softmax(1) for s in scores[: len(wide)]]
            use = prototype_use(sums(alone, weight)[:-1])
        loss = dino(scores, targets, o.temperature, weight)
        return weighted({"swav": (1.0, loss)}, pooled[0], prototype_use=use)

    def score(self, z: Tensor) -> Tensor:
        """Cosines (B, K) of projections (B, D) of length 1 with the prototypes; at least fp32, outside autocast."""
        with torch.autocast(z.device.type, enabled=False):
            return F.linear(z.to(self.prototypes.dtype), self.prototypes)

    def assign(self, scores: Tensor, weight: Tensor) -> Tensor:
        """The prototypes' shares (B, K) in items by their scores (B, K)."""
        return sinkhorn(scores, self.options.sinkhorn_temperature, self.options.sinkhorn_iterations, weight)

    def _target(self, scores: Tensor, weight: Tensor, queue: Queue | None) -> Tensor:
        if queue is None:
            return self.assign(scores, weight)
        # every rank holds the whole queue
        former = queue.valid.to(weight.dtype) / ranks.world()
        return self.assign(torch.cat([scores, self.score(queue.rows)]), torch.cat([weight, former]))[: len(scores)]

    def after_backward(self, ctx: Context) -> None:
        if ctx.step < self.options.freeze_steps:
            self.prototypes.grad = None

    @torch.no_grad()
    def after_step(self, ctx: Context) -> None:
        self.prototypes.copy_(F.normalize(self.prototypes, dim=1))
        if self._queueing(ctx):
            queues: Any = self.queues
            for queue, (rows, weight) in zip(queues, self._projected, strict=True):
                queue.put(rows, weight)

    def _queueing(self, ctx: Context) -> bool:
        return bool(self.options.queue) and ctx.step >= self.options.queue_from
