"""Jigsaw: Noroozi and Favaro 2016, Unsupervised Learning of Visual Representations by Solving Jigsaw Puzzles; beside a
contrast: Kinakh et al. 2021, ScatSimCLR."""

from __future__ import annotations

import math
from typing import Any

import torch
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
from unlabeled.core.tokens.jigsaw import far_orders, reordered


class Jigsaw(Term):
    """An item's parts are put into one of some orders, and the pooled features shall tell into which.

    The orders are few, always the same, and far from each other, the natural one among them; which one an item gets is
    drawn. Parts are boxes of a grid, along any number of axes: of a series they are segments. An item shorter than the grid
    is not asked. Raises RequestError for several inputs, one on no grid, and more orders than there are.

    Deviations: the item with its parts in another order goes through the encoder as one (as Carlucci et al. 2019, JiGen), so
    that any encoder takes it; in the papers each part goes alone, and the head sees their features side by side. The parts
    touch, without the gaps and the colour jitter that keep edges and colours from giving the order away: this is a
    term beside a method that learns more than that. 2 parts along an axis and at most 24 orders by default (papers: 3, and 35 to 1000).
    """

    class Options(base.Options):
        parts: int = Field(2, ge=2, description="along every axis (papers: 3)")
        orders: int | None = Field(
            None, ge=2, description="in which the parts may be put (ScatSimCLR: 35); none: all there are, at most 24"
        )
        hidden: tuple[int, ...] = Field((), description="widths of the head's hidden layers")

    orders: Tensor

    def __init__(self, encoder: Encoder, options: Any) -> None:
        super().__init__(encoder, options)
        self.input = only_grid(encoder, "jigsaw")
        parts = options.parts ** encoder.specs[self.input].rank
        count = options.orders or min(24, math.factorial(parts))
        if count > math.factorial(parts):
            raise RequestError(
                f"terms: jigsaw has {parts} parts, which have {math.factorial(parts)} orders, and not {count}; set orders "
                "lower, or parts higher"
            )
        self.register_buffer("orders", torch.from_numpy(far_orders(parts, count)))
        self.head = Projector(encoder.width, (*options.hidden, count), norm=False)

    def loss(self, encoder: Encoder, batch: Batch, ctx: Context) -> Tensor:
        x, n = grid_input(batch, self.input), self.options.parts
        if x.whole and min(x.values.shape[2:]) < n:
            raise RequestError(
                f"terms: jigsaw cuts {n} parts along every axis, and the items have {tuple(x.values.shape[2:])} cells; set "
                "parts lower, or data.window higher"
            )
        drawn = (len(self.orders) * ctx.draw(batch, "jigsaw").uniform("order")).long().flatten()
        x, able = reordered(x, self.orders[drawn], n)
        logits = self.head(encoder({**batch.inputs, self.input: x}).pooled)
        return masked_cross_entropy(logits, drawn, able * batch.weight)
