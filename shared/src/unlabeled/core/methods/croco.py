"""CroCo: Weinzaepfel et al. 2022, Self-Supervised Pre-training for 3D Vision Tasks by Cross-View Completion; v2, 2023."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.contracts.recipe import nearest
from unlabeled.core.methods.base import Context, Views, unchanged
from unlabeled.core.methods.cross_view import CrossView
from unlabeled.core.methods.views import crops
from unlabeled.core.tokens.masks import Rounding

VIEW = "view"


class CroCo(CrossView):
    """Complete a view of a scene, nine tenths of which are hidden, with the help of another view of it, which is seen whole.

    One encoder sees both views. The decoder's blocks are self-attention, cross-attention to the reference, and MLP
    (section 3.2); the loss is MAE's, on normalised patches. The other view is another input of the sample (a second
    viewpoint, an acquisition of another day), or another draw of the recipe's views. CroCo v2 (Weinzaepfel et al. 2023)
    is `encoder.positions: rope` with `decoder.positions: rope`.

    Raises RequestError where the encoder works on no tokens, or `reference` names no other input.

    Deviations: an input that serves as reference has a patch projection of its own in the encoder, as every named input
    here, and shares the blocks; so it may come from another sensor. The decoder is narrower by default. Where both views
    are drawn from one item they are pictures of one moment, which teaches less of geometry than the paper's two viewpoints.
    """

    class Options(CrossView.Options):
        mask_ratio: float = Field(0.9, gt=0, lt=1, description="share of the valid tokens that is hidden")
        rounding: Rounding = Field("mask", description="mask: int(n * mask_ratio) of n tokens are hidden; keep: as MAE")
        reference: str = Field(
            VIEW,
            description="where the other view is from: view: another draw of the recipe's views; or another input's name",
        )

    own: ClassVar[tuple[str, ...]] = (VIEW,)  # references that are no input

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Any, views: Views = unchanged
    ) -> None:
        known = [*self.own, *(specs if len(specs) > 1 else ())]
        if options.reference not in known:
            raise RequestError(f"method.reference: {nearest(options.reference, known)}")
        super().__init__(encoder, specs, options, views)

    @property
    def completed(self) -> Collection[str]:
        return [n for n in self.specs if n != self.options.reference]

    @property
    def shown(self) -> Collection[str]:
        return [n for n in self.specs if self.options.reference in (n, *self.own)]

    def pair(self, batch: Batch, ctx: Context) -> tuple[Batch, Batch]:
        if self.options.reference == VIEW:
            (first, second), _ = crops(self, batch, ctx, 2, 0)
            return first, second
        seen = self.views(batch, ctx.draw(batch, "view"))
        return seen, seen
