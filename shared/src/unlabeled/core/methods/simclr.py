"""SimCLR: Chen et al. 2020, A Simple Framework for Contrastive Learning of Visual Representations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.contrastive import nt_xent
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.heads import Projector


class SimCLR(Method):
    """Two views of an item shall be closer than those of different items.

    Norms see one view at a time, as in the paper.
    """

    class Options(base.Options):
        temperature: float = Field(0.2, gt=0, description="divides the cosines")
        projector: tuple[int, ...] = Field((256, 128), min_length=1, description="widths of the projector's layers")
        same_record_negatives: bool = Field(False, description="whether items of one record repel each other")

    encoder: Encoder

    def __init__(
        self, encoder: Encoder, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        self.projector = Projector(encoder.width, options.projector)

    def on_batch(self, batch: Batch, ctx: Context) -> tuple[Batch, Batch]:
        return self.views(batch, ctx.draw(batch, "view1")), self.views(batch, ctx.draw(batch, "view2"))

    def step(self, batch: tuple[Batch, Batch], ctx: Context) -> dict[str, Any]:
        first = batch[0]
        pooled = [self.encoder(view.inputs).pooled for view in batch]
        z1, z2 = (self.projector(p, first.weight) for p in pooled)
        record = None if self.options.same_record_negatives else first.record
        loss = nt_xent(z1, z2, self.options.temperature, first.weight, record)
        return weighted({"nt_xent": (1.0, loss)}, pooled[0])
