"""TOV-VICReg: Goulao and Oliveira 2022, Pretraining the Vision Transformer using self-supervised methods for vision based Deep RL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense, Moves
from unlabeled.core.losses.ids import detection
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.vicreg import VICReg
from unlabeled.core.tokens.frames import frames


@dataclass(frozen=True)
class Shuffled(Moves):
    """Two views of a frame, one of each neighbour, and how the three frames are laid before the linear layer.

    order   (B, 3) int64, the numbers in time of the frames laid first, second and third
    weight  (B,) of the items in the order term: 0 also for clips with no room for three frames
    """

    before: Batch
    view: Batch
    other: Batch
    after: Batch
    order: Tensor
    weight: Tensor


class TOVVICReg(VICReg):
    """VICReg on two views of a frame of a clip; and a linear layer tells whether that frame and its neighbours are in order.

    The pooled features of the three frames are laid side by side in one of 6 orders, drawn for each item, and are judged
    by binary cross-entropy: in order of time or not. The first axis of every input is time. An item in order
    has a chance of 1/6 in the paper: who always answers with it pays -(1/6 ln 1/6 + 5/6 ln 5/6) = 0.4506, so that only
    less than that is something learned; with `in_order_share: 0.5` that floor is ln 2.

    Raises RequestError where an input has no frames.

    Deviations: in the authors' code the order called right is (t, t - 1, t + 1), and only the frame at t is cropped and
    blurred, so that its place can be told by its looks; here the order is that of time, and all three frames get a draw of
    the recipe's views. A clip too short for three frames is left out of the order term, where theirs repeats its end.
    Covariances are divided by the number of items that count, less 1, and not by that of a full batch. The projector is
    narrower by default (paper: 1024). AdamW in place of LARS.
    """

    class Options(VICReg.Options):
        invariance: float = Field(10.0, ge=0, description="weight of the distance between the views")
        variance: float = Field(10.0, ge=0, description="weight of the deviations that are missing; 0 collapses")
        covariance: float = Field(10.0, ge=0, description="weight of the covariances between dimensions")
        order: float = Field(0.1, ge=0, description="weight of telling whether three frames are in order")
        in_order_share: float = Field(
            1 / 6,
            gt=0,
            lt=1,
            description="chance of an item in order; a constant answer costs 0.4506 at the paper's 1/6, ln 2 at 1/2",
        )
        gap: tuple[int, int] = Field((1, 1), description="least and most frames from one to the next, uniform")
        length: int = Field(1, ge=1, description="frames that are encoded together as one (paper: 3)")

    orders: Tensor

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        for name, spec in specs.items():
            if spec.layout != "dense" or spec.rank < 2:
                raise RequestError(
                    f"method tov_vicreg: the input {name!r} has no frames, which need a time axis before others; use vicreg"
                )
        self.judge = nn.Linear(3 * self.encoder.width, 1)
        # the first one is the order of time
        self.register_buffer("orders", torch.tensor(list(permutations(range(3)))), persistent=False)

    def on_batch(self, batch: Batch, ctx: Context) -> Shuffled:  # type: ignore[override]
        draws, pieces, weight = ctx.draw(batch, "frames").uniform("frames", 2), {}, batch.weight
        for name, x in batch.inputs.items():
            assert isinstance(x, Dense)
            pieces[name], enough = frames(x, draws, self.options.gap, self.options.length, 3)
            weight = weight * enough
        before, frame, after = (batch.with_inputs(**{n: p[i] for n, p in pieces.items()}) for i in range(3))
        scopes = {"before": before, "view1": frame, "view2": frame, "after": after}
        earlier, view, other, later = (self.views(piece, ctx.draw(batch, scope)) for scope, piece in scopes.items())
        return Shuffled(earlier, view, other, later, self.orders[self._number(batch, ctx)], weight)

    def _number(self, batch: Batch, ctx: Context) -> Tensor:
        """Which of the orders each item gets (B,): the first with its chance, the others with equal ones."""
        share, u = self.options.in_order_share, ctx.draw(batch, "order").uniform("order").to(torch.float64)
        others = len(self.orders) - 1
        other = 1 + ((u - share) / (1 - share) * others).long().clamp_max(others - 1)
        return torch.where(u < share, 0, other)

    def step(self, batch: Shuffled, ctx: Context) -> dict[str, Any]:  # type: ignore[override]
        pooled, z1, z2 = self.project((batch.view, batch.other))
        before, after = (self.encoder(piece.inputs).pooled for piece in (batch.before, batch.after))
        in_time = torch.stack([before, pooled, after], 1)
        laid = in_time.take_along_dim(batch.order[..., None], 1)
        shuffled = (batch.order != self.orders[0]).any(1)
        told = detection(self.judge(laid.flatten(1))[:, 0], shuffled, batch.weight)
        terms = self.terms(z1, z2, batch.view.weight)
        return weighted({**terms, "order": (self.options.order, told)}, pooled)
