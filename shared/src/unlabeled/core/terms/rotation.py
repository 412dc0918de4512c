"""Rotation: Gidaris et al. 2018, Unsupervised Representation Learning by Predicting Image Rotations; beside a contrast:
Kinakh et al. 2021, ScatSimCLR."""

from __future__ import annotations

from typing import Any

from pydantic import Field
from torch import Tensor

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.masked import masked_cross_entropy
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.heads import Projector
from unlabeled.core.terms.base import Term, grid_input, only_grid
from unlabeled.core.tokens.turns import turned


class Rotation(Term):
    """Every image is turned by 0 to 3 quarters, and its pooled features shall tell by how many.

    An image is turned within its own extent. An oblong one is not, and is not asked. Raises RequestError for anything but
    one image, and where all images of a batch are whole and oblong: then nobody would be asked.

    Deviations: one turn of an item a step, as ScatSimCLR's code (Gidaris et al.: all four in one batch); a
    linear head by default, where that code has two hidden layers of 512 and 128 with dropout; the plain item is turned,
    where that code turns an augmented one.
    """

    class Options(base.Options):
        hidden: tuple[int, ...] = Field((), description="widths of the head's hidden layers (ScatSimCLR: 512, 128)")

    def __init__(self, encoder: Encoder, options: Any) -> None:
        super().__init__(encoder, options)
        self.input = only_grid(encoder, "rotation", 2)
        self.head = Projector(encoder.width, (*options.hidden, 4), norm=False)

    def loss(self, encoder: Encoder, batch: Batch, ctx: Context) -> Tensor:
        x = grid_input(batch, self.input)
        height, width = x.values.shape[2:]
        if x.whole and height != width:
            raise RequestError(
                f"terms: rotation turns square items, and these have {height} x {width} cells; set data.window to a square"
            )
        quarter = (4 * ctx.draw(batch, "rotation").uniform("turn")).long().flatten()
        x, able = turned(x, quarter)
        logits = self.head(encoder({**batch.inputs, self.input: x}).pooled)
        return masked_cross_entropy(logits, quarter, able * batch.weight)
