"""BERT's masked language model: Devlin et al. 2019, BERT, Pre-training of Deep Bidirectional Transformers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.ids import naming
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.masking import Masking, draw_masks, token_encoder
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import Corrupt, TokenEncoder
from unlabeled.core.nn.ids import IdLogits, whole_numbers
from unlabeled.core.nn.transformer import xavier
from unlabeled.core.tokens.masks import Mask
from unlabeled.core.tokens.replace import replaced
from unlabeled.core.tokens.tokens import Tokens


@dataclass(frozen=True)
class Spoiled:
    """All tokens of a batch with some ids replaced, by input; weight (B,).

    Of the inputs whose channels are ids: `ids` (B, L, C) int64 as they were, `masks` with the chosen tokens, and for which
    tokens (B, L) bool the mask token stands.
    """

    tokens: dict[str, Tokens]
    ids: dict[str, Tensor]
    masks: dict[str, Mask]
    masked: dict[str, Tensor]
    weight: Tensor


class MaskedTokens(Method):
    """Choose some tokens of a vocabulary, hide most of them, encode all, and name the chosen ones.

    A token is chosen as a whole, with all its channels. Of the chosen ones 80 % become the mask token, 10 % get random
    ids and 10 % stay as they are (section 3.1, task 1). The head is the authors': a layer with GELU and layer norm, then
    the table of the embedding. The loss of an input is the negative log-likelihood of a chosen token, the sum over its
    channels, and the loss the mean over the inputs that hold ids; inputs of measured values are context and seen whole.
    Raises RequestError where the encoder has no vocabulary.

    Deviations: no next-sentence task, as items have no neighbours in general; the number of chosen tokens is exact and
    drawn anew in every epoch, where the authors fix ten draws beforehand.
    """

    class Options(Masking):
        mask_ratio: float = Field(0.15, gt=0, lt=1, description="share of the valid tokens that is chosen")
        masked: float = Field(0.8, ge=0, le=1, description="share of the chosen tokens that the mask token stands for")
        random: float = Field(0.1, ge=0, le=1, description="share of the chosen tokens that get random ids")
        tied: bool = Field(True, description="read ids off with the table that embeds them; false: with one of its own")

        @model_validator(mode="after")
        def _shares(self) -> Self:
            if self.masked + self.random > 1 + 1e-9:
                raise ValueError(f"masked and random are shares of the chosen tokens, got {self.masked + self.random}")
            return self

    encoder: TokenEncoder
    name = "masked_tokens"

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, self.name)
        super().__init__(encoder, specs, options, views)
        self.sizes = {name: sizes for name, sizes in encoder.vocabulary.items() if sizes}
        if not self.sizes:
            raise RequestError(
                f"method {self.name}: needs an input that holds ids; set encoder.vocabulary to their numbers"
            )
        self.mask_token = nn.Parameter(torch.randn(encoder.token_width) * 0.02)
        self.heads = self._heads(encoder.token_width)

    def _heads(self, width: int) -> nn.ModuleDict:
        embeddings: Any = self.encoder.project
        heads = nn.ModuleDict({n: IdLogits(width, embeddings[n], self.options.tied) for n in self.sizes})
        xavier(heads)
        return heads

    def on_batch(self, batch: Batch, ctx: Context) -> Spoiled:
        batch = self.views(batch, ctx.draw(batch, "view"))
        tokens, draw, o = self.encoder.tokenise(batch.inputs), ctx.draw(batch, "mask"), self.options
        masks = draw_masks(o, self.encoder, {n: tokens[n] for n in self.sizes}, draw)
        ids = {n: whole_numbers(tokens[n].patches, sizes) for n, sizes in self.sizes.items()}
        masked = {}
        for name, sizes in self.sizes.items():
            t = tokens[name]
            chosen = torch.zeros_like(t.valid).scatter(1, masks[name].hide, masks[name].hide_valid)
            lot = draw.uniform(f"{name}/lot", *t.places).flatten(1)
            noise = draw.uniform(f"{name}/ids", *t.places, len(sizes)).flatten(1, -2)
            new, masked[name] = replaced(ids[name], chosen, sizes, lot, noise, o.masked, o.random)
            tokens[name] = holding(t, new)
        return Spoiled(tokens, ids, masks, masked, batch.weight)

    def step(self, batch: Spoiled, ctx: Context) -> dict[str, Any]:
        features, logits = self._named(batch)
        return weighted(self._naming(batch, logits), features.pooled)

    def _named(self, batch: Spoiled) -> tuple[Features, dict[str, tuple[Tensor, ...]]]:
        """Features of the spoiled items, and logits (B, M, V) of the chosen tokens by input and channel."""

        def corrupt(name: str, x: Tensor) -> Tensor:
            if name not in batch.masked:
                return x
            return torch.where(batch.masked[name][..., None], self.mask_token.to(x.dtype), x)

        features = self._read(batch.tokens, corrupt)
        parts = torch.split(features.tokens, [t.valid.shape[1] for t in batch.tokens.values()], 1)
        of = dict(zip(batch.tokens, parts, strict=True))
        return features, {
            n: self.heads[n](of[n].take_along_dim(mask.hide[..., None], 1), self.encoder.project[n])
            for n, mask in batch.masks.items()
        }

    def _read(self, tokens: Mapping[str, Tokens], corrupt: Corrupt) -> Features:
        """Features of what names the tokens."""
        return self.encoder.encode(tokens, corrupt)

    def _naming(self, batch: Spoiled, logits: Mapping[str, tuple[Tensor, ...]]) -> dict[str, tuple[float, Tensor]]:
        terms = {}
        for name, mask in batch.masks.items():
            at = mask.hide[..., None]
            counts = batch.tokens[name].elements.take_along_dim(at, 1) & mask.hide_valid[..., None]
            loss = naming(logits[name], batch.ids[name].take_along_dim(at, 1), counts * batch.weight[:, None, None])
            terms[f"naming_{name}"] = (1 / len(self.sizes), loss)
        return terms


def holding(tokens: Tokens, ids: Tensor) -> Tokens:
    """`tokens` with other ids (B, L, C); what is invalid stays so, and zero."""
    return replace(tokens, patches=torch.where(tokens.elements, ids, 0).to(tokens.patches.dtype))
