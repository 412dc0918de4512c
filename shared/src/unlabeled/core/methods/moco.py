"""MoCo v2: He et al. 2020, Momentum Contrast; Chen et al. 2020, Improved Baselines with Momentum Contrastive Learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.contrastive import queue_nce
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.views import Pair, crops
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.heads import Projector
from unlabeled.core.targets.features import unit
from unlabeled.core.targets.queue import Queue
from unlabeled.core.targets.teacher import Teacher


class MoCo(Method):
    """A view of an item shall be closer to what a slow copy makes of the other view than to what it made of other items.

    Those are the copy's keys of the last steps, kept in a queue, so that there are many of them whatever the batch
    (He et al., eq. 1 and alg. 1; the projector with a hidden layer and the temperature are those of v2). Keys of the
    batch itself enter after the step. The trained encoder is exported, as in the paper.

    Deviations: the queue starts empty and fills up, where the authors' holds random vectors at first: the first step has
    no negatives, its loss is 0, and the loss rises as the queue fills. It keeps 4096 keys by default (paper: 65536), and
    the record of each, since on small data it reaches back over an epoch: former keys of an item, and those of its
    record, are no negatives of it unless asked for. Items are not shuffled over ranks before the copy sees them: batch
    norms are those of all ranks, so no smaller group has statistics that would tell a key from the others of its batch.
    AdamW in place of SGD.
    """

    class Options(base.Options):
        temperature: float = Field(0.2, gt=0, description="divides the cosines")
        projector: tuple[int, ...] = Field((256, 128), min_length=1, description="widths of the projector's layers")
        queue: int = Field(4096, ge=1, description="keys that are kept as negatives (paper: 65536)")
        same_record_negatives: bool = Field(False, description="whether items of one record repel each other")
        teacher: Teacher.Options = Field(
            Teacher.Options(momentum=0.999, final_momentum=0.999), description="the slow copy"
        )

    encoder: Encoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        self.projector = Projector(self.encoder.width, options.projector, norm=False)
        self.teacher = Teacher(options.teacher, **self._student())
        self.queue = Queue(options.queue, options.projector[-1])
        self.records = Queue(options.queue, 1, dtype=torch.int64)
        # key, record and weight since the last optimiser step, which may see its batch in parts
        self._keys: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_batch(self, batch: Batch, ctx: Context) -> Pair:
        (first, second), _ = crops(self, batch, ctx, 2, 0)
        return first, second

    def step(self, batch: Pair, ctx: Context) -> dict[str, Any]:
        o, (first, second) = self.options, batch
        pooled = self.encoder(first.inputs).pooled
        with torch.no_grad():
            keys = unit(self.teacher["projector"](self.teacher["encoder"](second.inputs).pooled))
        self._keys.append((keys, first.record[:, None], first.weight))
        met = self.queue.valid
        if not o.same_record_negatives:
            met = met & (first.record[:, None] != self.records.rows[:, 0])
        loss = queue_nce(self.projector(pooled), keys, self.queue.rows, met, o.temperature, first.weight)
        return weighted({"info_nce": (1.0, loss)}, pooled, teacher_gap=self.teacher.gap(**self._student()))

    def after_step(self, ctx: Context) -> None:
        keys, records, weight = (torch.cat(of_parts) for of_parts in zip(*self._keys, strict=True))
        self._keys = []
        self.queue.put(keys, weight)
        self.records.put(records, weight)
        self.teacher.follow(ctx.progress, **self._student())

    def _student(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "projector": self.projector}
