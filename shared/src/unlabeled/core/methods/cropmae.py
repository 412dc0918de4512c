"""CropMAE: Eymaël et al. 2024, Efficient Image Pre-Training with Siamese Cropped Masked Autoencoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field
from torch import nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.base import Context, Views, unchanged
from unlabeled.core.methods.cross_view import CrossView
from unlabeled.core.methods.ijepa import Range, Share
from unlabeled.core.tokens.crops import crop, draw_box, inside


class CropMAE(CrossView):
    """Complete a crop of an item, of which two patches are seen, with the help of a larger crop around it.

    The global crop is a random box of the item, the local one a random box of the global one ("global to local", the
    paper's best); each is drawn on the item's whole grid. One encoder sees both, and the decoder looks from the local
    crop to the global one. Of 196 patches the ratio 0.985 leaves int(2.94) = 2; for n patches 1 - 2 / n does, rounded
    down a little.

    Raises RequestError where the encoder works on no tokens, or an input has no grid.

    Deviations: the decoder is CroCo's (self-attention, cross-attention, MLP, a norm before each) and goes by the places of
    the global crop's tokens too; the authors' code has cross-attention first and norms after, adds no positions there, and
    has the class token among what is looked at. The local crop is cut from the item and not from the resized global crop,
    so that it is interpolated once, and boxes end between cells. The authors flip each crop by itself; here a flip is a
    view of the recipe, before both crops, because in many fields a mirrored item is another item. Aspects are in shares of
    the item's grid, so that they mean the same on any grid.
    """

    class Options(CrossView.Options):
        mask_ratio: float = Field(
            0.985, gt=0, lt=1, description="share of the valid tokens of a local crop that is hidden"
        )
        global_scale: Share = Field((0.1, 1.0), description="share of the item that a global crop holds")
        local_scale: Share = Field((0.3, 0.6), description="share of the global crop that a local one holds")
        aspect: Range = Field(
            (0.75, 4 / 3), description="a crop's length over its length along the last axis, log-uniform"
        )

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Any, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        for name, spec in specs.items():
            if spec.layout != "dense":
                raise RequestError(f"method cropmae: the input {name!r} has no grid to crop; use mae or croco")

    def pair(self, batch: Batch, ctx: Context) -> tuple[Batch, Batch]:
        seen = self.views(batch, ctx.draw(batch, "view"))
        o, draw = self.options, ctx.draw(batch, "crop")
        local, whole = {}, {}
        for name, x in seen.inputs.items():
            assert isinstance(x, Dense)
            outer = draw_box(draw.uniform("global", 2 * x.rank), o.global_scale, o.aspect)
            inner = draw_box(draw.uniform("local", 2 * x.rank), o.local_scale, o.aspect)
            local[name], whole[name] = crop(x, inside(outer, inner)), crop(x, outer)
        return seen.with_inputs(**local), seen.with_inputs(**whole)
