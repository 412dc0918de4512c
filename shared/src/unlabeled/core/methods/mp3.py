"""MP3: Zhai et al. 2022, Position Prediction as an Effective Pretraining Strategy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.masked import masked_cross_entropy
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.masking import Masking, draw_masks, token_encoder
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.fitting import Sizes
from unlabeled.core.nn.transformer import xavier
from unlabeled.core.tokens.clusters import clusters
from unlabeled.core.tokens.tokens import Tokens


@dataclass(frozen=True)
class Unplaced:
    """All tokens of a batch and which (B, L) bool are attended to, by input; weight (B,)."""

    tokens: dict[str, Tokens]
    keys: dict[str, Tensor]
    weight: Tensor


class MP3(Method):
    """Encode patches without positions, and classify each one's place.

    Every token asks, but only a random part of them is attended to, the same in all blocks (the paper's masked attention):
    from its own content and a few others a token shall tell where it was. A linear head gives the logits of all places, and
    the loss is the mean over the inputs of the cross-entropy of all valid tokens. Places are read off the coordinates, so
    padding changes nothing, and tokens outside `places` are seen and no targets. Patches must not overlap, and nothing may
    tell their order: equal patches cannot be told apart, and are a floor of the loss. Raises RequestError where the encoder
    knows the places, or `places` does not fit the inputs.

    Deviations: none known; there is no official code, and the paper's text was read in its abstract and in summaries only.
    Decided here: a linear head without label smoothing, all valid tokens weighed alike.
    """

    class Options(Masking):
        mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of the valid tokens that is not attended to")
        places: Sizes | dict[str, Sizes] = Field(
            description="patches along each axis of the grid whose places are the classes, or by input name"
        )

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, "mp3")
        super().__init__(encoder, specs, options, views)
        if encoder.options.positions != "none" or encoder.options.causal:
            raise RequestError(
                "method mp3: the encoder must not know the places it shall tell; set encoder.positions: none, "
                "and no encoder.causal"
            )
        self.places = {name: _places(name, spec, options.places) for name, spec in encoder.specs.items()}
        width = encoder.token_width
        self.heads = nn.ModuleDict({n: nn.Linear(width, math.prod(p)) for n, p in self.places.items()})
        xavier(self.heads)

    def on_batch(self, batch: Batch, ctx: Context) -> Unplaced:
        batch = self.views(batch, ctx.draw(batch, "view"))
        tokens = self.encoder.tokenise(batch.inputs)
        masks = draw_masks(self.options, self.encoder, tokens, ctx.draw(batch, "mask"))
        keys = {n: torch.zeros_like(tokens[n].valid).scatter(1, m.keep, m.keep_valid) for n, m in masks.items()}
        return Unplaced(tokens, keys, batch.weight)

    def step(self, batch: Unplaced, ctx: Context) -> dict[str, Any]:
        features = self.encoder.encode(batch.tokens, keys=torch.cat(list(batch.keys.values()), 1))
        parts = torch.split(features.tokens, [t.valid.shape[1] for t in batch.tokens.values()], 1)
        losses = {}
        for (name, t), x in zip(batch.tokens.items(), parts, strict=True):
            place, inside = self._place(name, t)
            loss = masked_cross_entropy(self.heads[name](x), place, inside * batch.weight[:, None])
            losses[f"place_{name}"] = (1 / len(parts), loss)
        return weighted(losses, features.pooled)

    def _place(self, name: str, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Number (B, L) int64 in raster order of the place a token lies in, and whether (B, L) it lies in one."""
        place, inside = torch.zeros_like(tokens.valid, dtype=torch.int64), tokens.valid
        at = clusters(self.encoder.position(name, tokens.coords), (1,) * tokens.coords.shape[-1])
        for x, n in zip(at.unbind(-1), self.places[name], strict=True):
            place, inside = place * n + x, inside & (x >= 0) & (x < n)
        return place, inside


def _places(name: str, spec: InputSpec, given: Sizes | dict[str, Sizes]) -> Sizes:
    places = given.get(name, ()) if isinstance(given, dict) else given
    if len(places) != spec.rank or any(n < 1 for n in places):
        raise RequestError(
            f"method.places: the input {name!r} has the axes {', '.join(spec.axes)} and needs {spec.rank} positive numbers, "
            f"got {list(places)}"
        )
    return places
