"""GMML: Atito et al. 2022, GMML is All you Need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.masked import masked_l1, normalised_patches
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.masking import Masking, draw_masks, token_encoder
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.heads import Projector
from unlabeled.core.nn.transformer import xavier
from unlabeled.core.streams import Draw
from unlabeled.core.tokens.corrupt import corrupted, kinds
from unlabeled.core.tokens.exchange import donors, everybody, on_grid, rows
from unlabeled.core.tokens.masks import Mask
from unlabeled.core.tokens.schemes import Group, Scheme
from unlabeled.core.tokens.tokens import Tokens

Donors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Corrupted:
    """A batch by input: its tokens, which of them are hidden, and what the encoder sees; weight and record (B,)."""

    tokens: dict[str, Tokens]
    masks: dict[str, Mask]
    seen: dict[str, Tokens]
    weight: Tensor
    record: Tensor


class GMML(Method):
    """Put noise, zeros or another item's patches in the place of groups of patches, encode all tokens, recover the pixels.

    The corruption is of the raw patches, before the projection, so no mask token is learned; an item gets one kind of
    it, as in the authors' code. The other item is the next one in a keyed ring of all items of the batch, and its
    patches come from the same places. The loss is the mean over inputs of the L1 distance on what was corrupted.
    With several ranks a step waits for the device once, to learn the largest grid of any rank (see `everybody`).
    Raises RequestError where the encoder works on no tokens, or an input without a grid shall take others' patches.

    Deviations: the authors' code corrupts half of the pixels with noise and, in every second item, up to 0.3 of them
    with another item's instead; here one ratio holds for all kinds, and it is exact. Their donor is any item of the
    batch, the item itself too, which then has nothing to recover; here it never is. Their head has three hidden layers
    as wide as a token, with GELU; here it is one layer, or as `head` says, with ReLU.
    """

    couples = "patches of other items of the batch are put into an item"

    class Options(Masking):
        mask_ratio: float = Field(0.5, gt=0, lt=1, description="share of the valid tokens that is corrupted")
        mask: Scheme = Field(Group(), description="which tokens are corrupted: groups that touch")
        noise: float = Field(1.0, ge=0, description="how often noise is put in, relative to the other kinds")
        zeros: float = Field(0.0, ge=0, description="how often zeros, the mean of normalised values, are put in")
        other: float = Field(1.0, ge=0, description="how often another item's patches are put in")
        norm_target: bool = Field(False, description="recover patches normalised by their own mean and deviation")
        head: tuple[int, ...] = Field((), description="widths of the head's hidden layers; none: one linear layer")

        @model_validator(mode="after")
        def _some_kind(self) -> Self:
            if self.noise + self.zeros + self.other <= 0:
                raise ValueError("one of noise, zeros and other must be above 0")
            return self

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        method = type(self).__name__.lower()
        encoder = token_encoder(encoder, method, pixels=True)
        super().__init__(encoder, specs, options, views)
        for name, spec in encoder.specs.items():
            if spec.layout != "dense" and options.other > 0:
                raise RequestError(
                    f"method {method}: the input {name!r} has no grid, so no place of it is another item's too; "
                    "set method.other: 0"
                )
        width = encoder.token_width
        self.heads = nn.ModuleDict(
            {n: Projector(width, (*options.head, p), norm=False) for n, p in encoder.patch_widths.items()}
        )
        xavier(self.heads)

    def on_batch(self, batch: Batch, ctx: Context) -> Any:
        return self.corrupt(self.views(batch, ctx.draw(batch, "view")), ctx)

    def corrupt(self, batch: Batch, ctx: Context, scope: str = "") -> Corrupted:
        """A view of the batch with hidden groups; `scope` keeps the draws of two views apart."""
        tokens = self.encoder.tokenise(batch.inputs)
        draw = ctx.draw(batch, f"mask{scope}")
        masks = draw_masks(self.options, self.encoder, tokens, draw)
        donor = donors(batch.index, batch.weight, ctx.shared(f"donor{scope}"))
        seen = {n: self._seen(n, t, masks[n], draw, donor) for n, t in tokens.items()}
        return Corrupted(tokens, masks, seen, batch.weight, batch.record)

    def _seen(self, name: str, tokens: Tokens, mask: Mask, draw: Draw, donor: Donors) -> Tokens:
        o = self.options
        hidden = torch.zeros_like(tokens.valid).scatter(1, mask.hide, mask.hide_valid)
        noise = draw.normal(f"{name}/noise", *tokens.places, tokens.patches.shape[-1]).flatten(1, -2)
        other = on_grid(rows(everybody(tokens), *donor), tokens.grid).patches if o.other > 0 else None
        return corrupted(tokens, hidden, kinds(draw.uniform(f"{name}/kind"), o.noise, o.zeros, o.other), noise, other)

    def step(self, batch: Any, ctx: Context) -> dict[str, Any]:
        features, terms = self.recover(batch)
        return weighted(terms, features.pooled)

    def recover(self, batch: Corrupted) -> tuple[Features, dict[str, tuple[float, Tensor]]]:
        """Features of the corrupted tokens, and the weighted loss of what was recovered from them, by input."""
        features = self.encoder.encode(batch.seen)
        parts = torch.split(features.tokens, [t.valid.shape[1] for t in batch.tokens.values()], 1)
        share = 1 / len(parts)
        return features, {f"l1_{n}": (share, self._loss(n, x, batch)) for n, x in zip(batch.tokens, parts, strict=True)}

    def _loss(self, name: str, features: Tensor, batch: Corrupted) -> Tensor:
        mask = batch.masks[name]
        pred = self.heads[name](features.take_along_dim(mask.hide[..., None], 1))
        truth = mask.hidden(batch.tokens[name])
        target = normalised_patches(truth.patches, truth.elements) if self.options.norm_target else truth.patches
        return masked_l1(pred, target, truth.elements * batch.weight[:, None, None])
