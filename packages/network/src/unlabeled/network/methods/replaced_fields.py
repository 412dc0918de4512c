"""Replaced-field detection: ELECTRA's task on the header fields of a flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.base import Context, Views, unchanged
from unlabeled.core.methods.replaced_tokens import Dealt, ReplacedTokens
from unlabeled.core.nn.ids import whole_numbers
from unlabeled.core.tokens.tokens import Tokens
from unlabeled.network.flow.fields import TYPES, VOCABULARY
from unlabeled.network.methods.masked_packets import MaskedPackets, but_field


class ReplacedFields(MaskedPackets, ReplacedTokens):
    """A small generator names hidden fields; its guesses stand in their places, and the encoder tells which bytes are true.

    Clark et al. 2020 (ELECTRA) on fields of packets. The generator guesses bytes only: which field a token is stays as it
    is, seen by both and judged by none. Fields that follow from others (a burst's bytes and packets, lengths, relative
    sequence and acknowledgement numbers) are neither replaced nor judged, because adding up would find them; they are
    context. Every other byte of a valid token is judged, and a guess that is right counts as true. Loss, generator and tied
    tables are those of `replaced_tokens`; the generator is a flat token encoder beside either encoder. The bundle carries
    the encoder, the discriminator of the paper. Raises RequestError where the ids are not those of fields.

    Deviations: those of `replaced_tokens`; 30 % are hidden, the paper takes 15 %, as flows are more redundant than text.
    """

    class Options(MaskedPackets.Options, ReplacedTokens.Options):
        mask_ratio: float = Field(
            0.3, gt=0, lt=1, description="share of the fields that follow from no other that is chosen"
        )
        masked: float = Field(1.0, ge=0, le=1, description="share of the chosen fields that the mask token stands for")
        random: float = Field(0.0, ge=0, le=1, description="share of the chosen fields that get another's bytes before")
        copies: bool = Field(True, description="the generator also names what the packet before says alike")

    name = "replaced_fields"
    derived: Tensor

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        self.register_buffer("derived", torch.tensor([derived for *_, derived in TYPES]), persistent=False)

    def on_batch(self, batch: Batch, ctx: Context) -> Dealt:
        spoiled, draw = super().on_batch(batch, ctx), ctx.draw(batch, "sample")
        noise = {n: draw.uniform(n, *spoiled.tokens[n].places, len(s)) for n, s in self.sizes.items()}
        return Dealt(**vars(spoiled), noise=noise)

    def _may(self, tokens: Tokens) -> Tensor:
        return tokens.valid & ~self.derived[whole_numbers(tokens.patches, VOCABULARY)[..., 0]]

    def _replaced(
        self, batch: Dealt, logits: Mapping[str, tuple[Tensor, ...]]
    ) -> tuple[dict[str, Tokens], dict[str, Tensor]]:
        tokens, wrong = super()._replaced(batch, logits)
        for name in wrong:
            t, field = tokens[name], batch.tokens[name].patches[..., :1]
            judged = but_field(t.elements) & self._may(batch.tokens[name])[..., None]
            tokens[name] = replace(t, patches=torch.cat([field, t.patches[..., 1:]], -1), elements=judged)
            wrong[name] = but_field(wrong[name])
        return tokens, wrong
