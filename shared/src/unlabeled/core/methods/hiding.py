"""What methods share whose student does not see tokens that its teacher sees: a share of each crop's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from unlabeled.core.contracts.batch import Batch, BatchInput
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context
from unlabeled.core.methods.ijepa import Share
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.streams import Draw
from unlabeled.core.tokens.schemes import Asked, Boxes, Scheme
from unlabeled.core.tokens.shares import part_of
from unlabeled.core.tokens.tokens import Tokens


class Hiding(base.Options):
    mask_share: float = Field(0.5, gt=0, le=1, description="how often a large crop hides tokens from the student")
    mask_ratio: Share = Field(
        (0.1, 0.5), description="from which range the share of its valid tokens that it then hides is drawn"
    )
    mask: Scheme = Field(Boxes(), description="which tokens are hidden: a name, or a name with its options")


@dataclass(frozen=True)
class Hidden:
    """The tokens of R crops by input, and which of them the student does not see.

    at     (R, M) int64, their places in the sequence of all inputs
    there  (R, M) bool, False for fillers
    draws  of the crops, each of its own
    weight (R,)
    """

    tokens: Mapping[str, Tokens]
    at: Tensor
    there: Tensor
    draws: Draw
    weight: Tensor

    def take(self, x: Tensor) -> Tensor:
        """The rows (R, M, D) of the hidden tokens, from those of all tokens (R, L, D)."""
        return x.take_along_dim(self.at[..., None], 1)

    def encode(self, encoder: TokenEncoder, mask_token: Tensor) -> Features:
        """Features of all tokens, with `mask_token` (D,) in the place of the hidden ones."""
        valid = torch.cat([t.valid for t in self.tokens.values()], 1)
        lengths = [t.valid.shape[1] for t in self.tokens.values()]
        parts = torch.split(torch.zeros_like(valid).scatter(1, self.at, self.there), lengths, 1)
        hidden = dict(zip(self.tokens, parts, strict=True))

        def corrupt(name: str, x: Tensor) -> Tensor:
            return torch.where(hidden[name][..., None], mask_token.to(x.dtype), x)

        return encoder.encode(self.tokens, corrupt)

    def some(self, count: int) -> Hidden:
        """With `count` of a crop's hidden tokens, drawn at random: M is `count`, whatever the size of the crops is."""
        chance = self.draws.uniform("/some", self.at.shape[1]).masked_fill(~self.there, 2.0)
        order = chance.argsort(dim=1, stable=True)[:, :count]
        more = (0, count - order.shape[1])
        at, there = (F.pad(x.gather(1, order), more) for x in (self.at, self.there))
        return replace(self, at=at, there=there)


def hidden(options: Hiding, encoder: TokenEncoder, crops: Sequence[Batch], ctx: Context) -> Hidden:
    """All rows of the first crop and then those of the others, as one batch; the crops are of the same items and shape.

    Of each crop it is drawn whether it hides anything, and then how much; all inputs of it hide the same share.
    """
    inputs: dict[str, BatchInput] = {}
    for name, x in crops[0].inputs.items():
        kind: Any = type(x)
        inputs[name] = kind.joined([crop.inputs[name] for crop in crops])
    tokens = encoder.tokenise(inputs)
    numbers = torch.cat([len(crops) * crop.index + i for i, crop in enumerate(crops)])
    draws = Draw(ctx.seed, ctx.epoch, numbers, "hidden")
    least, most = options.mask_ratio
    chance = draws.uniform("/share", 2).to(torch.float64)
    ratio = torch.where(chance[:, 0] < options.mask_share, least + (most - least) * chance[:, 1], 0)
    at, there, start = [], [], 0
    for name, t in tokens.items():
        mask = options.mask.draw(Asked(name, t, encoder.position(name, t.coords), draws, most, "mask"))
        at.append(start + mask.hide)
        there.append(part_of(mask, t.valid, ratio))
        start += t.valid.shape[1]
    weight = torch.cat([crop.weight for crop in crops])
    return Hidden(tokens, torch.cat(at, 1), torch.cat(there, 1), draws, weight)
