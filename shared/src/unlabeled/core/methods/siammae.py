"""SiamMAE: Gupta et al. 2023, Siamese Masked Autoencoders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.base import Context, Views, unchanged
from unlabeled.core.methods.croco import VIEW, CroCo
from unlabeled.core.tokens.frames import frame_pair
from unlabeled.core.tokens.masks import Rounding

EARLIER = "earlier"


class SiamMAE(CroCo):
    """Complete a frame of a clip, of which a twentieth is seen, with the help of an earlier frame, which is seen whole.

    One encoder sees both frames, each by itself and without its place in time (section 3); the decoder of CroCo looks
    from the later one to the earlier one. The first axis of every input is time; a frame is as long as the encoder's
    patch along it. A clip with room for one frame only has no reference, and is completed as in MAE. Where there is no
    time axis, `reference` is as in CroCo.

    Raises RequestError where the encoder works on no tokens, `reference` names no other input, or a clip has no frames.

    Deviations: the decoder is CroCo's (self-attention, cross-attention, MLP, a norm before each), where the paper's
    "cross-self" decoder looks at the earlier frame first; no official code was found, and that of CropMAE's authors has
    norms after, too. Frames are not cropped or flipped here: that is for the recipe's views, which come before. The gap
    of 4 to 48 frames is that of the same code, for 30 frames a second; a clip shorter than the gap gives its first and
    last frame.
    """

    own: ClassVar[tuple[str, ...]] = (EARLIER, VIEW)

    class Options(CroCo.Options):
        mask_ratio: float = Field(0.95, gt=0, lt=1, description="share of the valid tokens that is hidden")
        rounding: Rounding = Field(
            "keep", description="keep: int(n * (1 - mask_ratio)) of n tokens stay; mask: as CroCo"
        )
        reference: str = Field(
            EARLIER,
            description="where the other view is from: earlier: an earlier frame; view: another draw of the views; or "
            "another input's name",
        )
        gap: tuple[int, int] = Field((4, 48), description="least and most frames from one to the other, uniform")

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Any, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        for name, spec in specs.items():
            if options.reference == EARLIER and (spec.layout != "dense" or spec.rank < 2):
                raise RequestError(
                    f"method.reference: the input {name!r} has no frames, which need a time axis before others; "
                    f"use {VIEW!r}"
                )

    def pair(self, batch: Batch, ctx: Context) -> tuple[Batch, Batch]:
        if self.options.reference != EARLIER:
            return super().pair(batch, ctx)
        seen = self.views(batch, ctx.draw(batch, "view"))
        draws = ctx.draw(batch, "frames").uniform("pair", 2)
        pairs = {
            n: frame_pair(x, draws, self.options.gap, self.encoder.patch[n][0])
            for n, x in seen.inputs.items()
            if isinstance(x, Dense)
        }
        later, earlier = ({n: pair[i] for n, pair in pairs.items()} for i in range(2))
        return seen.with_inputs(**later), seen.with_inputs(**earlier)
