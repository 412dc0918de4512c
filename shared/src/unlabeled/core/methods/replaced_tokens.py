"""Replaced token detection: Clark et al. 2020, ELECTRA, Pre-training Text Encoders as Discriminators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.ids import detection
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.masked_tokens import MaskedTokens, Spoiled, holding
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import Corrupt, TokenEncoder
from unlabeled.core.nn.ids import sample
from unlabeled.core.nn.transformer import xavier
from unlabeled.core.tokens.tokens import Tokens


@dataclass(frozen=True)
class Dealt(Spoiled):
    """With a uniform number (B, L, C) for every id that may be drawn, by input."""

    noise: dict[str, Tensor]


class ReplacedTokens(MaskedTokens):
    """A small generator names masked tokens, as in BERT; its guesses stand in their places, and the encoder tells which.

    The generator is the encoder made narrower; ids are embedded by the table of the encoder, which a linear map narrows,
    and are read off with it too (section 3.2: tied embeddings). Its guesses are drawn from its distribution, so that no
    gradient goes through them (section 2). A token is masked and drawn as a whole, but every channel is judged by itself:
    the encoder says of each id of each valid token whether it is the true one, and a guess that is right counts as true.
    The loss is the generator's plus `weight` times the mean binary cross-entropy of the judgements; of several inputs
    the mean. The bundle carries the encoder, the discriminator of the paper. Raises RequestError where the encoder has
    no vocabulary.

    Deviations: all chosen tokens are masked for the generator, as in the paper's text, where the authors' code leaves
    15 % of them as they are (`masked: 0.85`) and chooses with replacement, so that some are chosen twice; learned positions
    are not shared with the generator; a guess is drawn by the inverse distribution function from one uniform number, where
    the code adds Gumbel noise to every logit.
    """

    class Options(MaskedTokens.Options):
        masked: float = Field(1.0, ge=0, le=1, description="share of the chosen tokens that the mask token stands for")
        random: float = Field(0.0, ge=0, le=1, description="share of the chosen tokens that get random ids before")
        generator: float = Field(
            0.25, gt=0, le=1, description="width of the generator over the encoder's, in whole heads; paper: 1/4 to 1/2"
        )
        weight: float = Field(50.0, gt=0, description="of the judgements, beside the generator's loss")

    name = "replaced_tokens"

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        o, width = self.encoder.options, self.encoder.token_width
        heads = max(1, round(o.heads * options.generator))
        small = {"heads": heads, "width": heads * (width // o.heads), "cls": False, "pool": "mean"}
        self.generator = TokenEncoder(self.encoder.specs, o.model_copy(update=small))
        # it reads what the encoder has embedded
        self.generator.project = nn.ModuleDict({n: nn.Identity() for n in self.encoder.specs})
        self.narrow = nn.Linear(width, self.generator.token_width)
        self.heads = self._heads(self.generator.token_width)
        self.judges = nn.ModuleDict(
            {
                n: nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, len(s)))
                for n, s in self.sizes.items()
            }
        )
        xavier(self.narrow)
        xavier(self.judges)

    def on_batch(self, batch: Batch, ctx: Context) -> Dealt:
        spoiled, draw = super().on_batch(batch, ctx), ctx.draw(batch, "sample")
        noise = {n: draw.uniform(n, *spoiled.tokens[n].places, len(s)).flatten(1, -2) for n, s in self.sizes.items()}
        return Dealt(**vars(spoiled), noise=noise)

    def step(self, batch: Spoiled, ctx: Context) -> dict[str, Any]:
        assert isinstance(batch, Dealt)
        _, logits = self._named(batch)
        terms = self._naming(batch, logits)
        tokens, wrong = self._replaced(batch, logits)
        features = self.encoder.encode(tokens)
        parts = torch.split(features.tokens, [t.valid.shape[1] for t in tokens.values()], 1)
        for name, x in zip(tokens, parts, strict=True):
            if name in wrong:
                counts = tokens[name].elements * batch.weight[:, None, None]
                loss = detection(self.judges[name](x), wrong[name], counts)
                terms[f"detection_{name}"] = (self.options.weight / len(wrong), loss)
        return weighted(terms, features.pooled)

    def _read(self, tokens: Mapping[str, Tokens], corrupt: Corrupt) -> Features:
        embed = self.encoder.project
        return self.generator.encode(tokens, lambda name, x: self.narrow(corrupt(name, embed[name](x))))

    def _replaced(
        self, batch: Dealt, logits: Mapping[str, tuple[Tensor, ...]]
    ) -> tuple[dict[str, Tokens], dict[str, Tensor]]:
        """The items with the generator's guesses, and which ids (B, L, C) bool are not the true ones, by input."""
        tokens, wrong = dict(batch.tokens), {}
        for name, mask in batch.masks.items():
            true, at = batch.ids[name], mask.hide[..., None]
            noise = batch.noise[name].take_along_dim(at, 1)
            guess = torch.stack([sample(x, noise[..., c]) for c, x in enumerate(logits[name])], -1)
            guess = torch.where(mask.hide_valid[..., None], guess, true.take_along_dim(at, 1))
            drawn = true.scatter(1, at.expand_as(guess), guess)
            tokens[name], wrong[name] = holding(tokens[name], drawn), drawn != true
        return tokens, wrong
