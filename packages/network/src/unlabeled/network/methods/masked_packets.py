"""Masked packets: BERT's task on the header fields of a flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.base import Context, Views, unchanged
from unlabeled.core.methods.masked_tokens import MaskedTokens, Spoiled, holding
from unlabeled.core.methods.masking import draw_masks
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import Corrupt
from unlabeled.core.nn.ids import whole_numbers
from unlabeled.core.streams import Draw
from unlabeled.core.tokens.masks import Mask, keep_lowest
from unlabeled.core.tokens.tokens import Tokens
from unlabeled.network.corruption import alike
from unlabeled.network.flow.fields import VOCABULARY


class MaskedPackets(MaskedTokens):
    """Choose some fields of a flow, hide most of them, encode the rest, and name the high and low byte of the chosen ones.

    Devlin et al. 2019 (BERT, section 3.1) on fields of packets, as Guthula et al. 2023 (netFound) do. Which field a token
    is stays visible: only its two bytes are hidden and named, and the negative log-likelihoods of both are added. Of some
    flows single fields are chosen, of some whole packets (a burst's own fields count as one), of some whole bursts; the
    count is exact, so the last of them may be chosen in part. Of the chosen fields 80 % get the mask token, 10 % the bytes of a
    random field of the same type in the batch, and 10 % stay. What the packet before says in full view is not named.
    Works with the encoders `flow` and `tokens`. Raises RequestError where the ids are not those of fields.

    Deviations: 30 % are chosen as in netFound, BERT takes 15 %; a random value is drawn from the field's own values in the
    batch, where netFound's code draws any id, that of the mask included; two softmaxes over 256 bytes in place of one over
    65,600 words; netFound names repeated values too (`copies: true`).
    """

    class Options(MaskedTokens.Options):
        mask_ratio: float = Field(0.3, gt=0, lt=1, description="share of the valid fields that is chosen")
        packets: float = Field(0.25, ge=0, le=1, description="share of the flows of which whole packets are chosen")
        bursts: float = Field(0.25, ge=0, le=1, description="share of the flows of which whole bursts are chosen")
        copies: bool = Field(
            False, description="name also what the packet before, in the same burst and not chosen itself, says alike"
        )

        @model_validator(mode="after")
        def _flows(self) -> Self:
            if self.packets + self.bursts > 1 + 1e-9:
                raise ValueError(f"packets and bursts are shares of the flows, got {self.packets + self.bursts}")
            return self

    name = "masked_packets"
    couples = "some fields get values of other flows of the batch"

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        for name, sizes in self.sizes.items():
            if sizes != VOCABULARY:
                raise RequestError(
                    f"method {self.name}: needs the fields of packets, and the ids of {name!r} are {list(sizes)}; set "
                    f"encoder.vocabulary to {list(VOCABULARY)}, or use masked_tokens"
                )

    def on_batch(self, batch: Batch, ctx: Context) -> Spoiled:
        batch = self.views(batch, ctx.draw(batch, "view"))
        return self._spoiled(self.encoder.tokenise(batch.inputs), batch.weight, ctx.draw(batch, "mask"))

    def _may(self, tokens: Tokens) -> Tensor:
        """Which tokens (B, L) may be chosen."""
        return tokens.valid

    def _spoiled(self, given: Mapping[str, Tokens], weight: Tensor, draw: Draw, never: Tensor | None = None) -> Spoiled:
        """never (B, L) bool: which tokens are not chosen; None: no more than those that `_may` leaves out."""
        o, tokens, ids, masks, masked = self.options, dict(given), {}, {}, {}
        for name, sizes in self.sizes.items():
            t = tokens[name]
            ids[name] = whole_numbers(t.patches, sizes)
            may = self._may(t) if never is None else self._may(t) & ~never
            mask = self._chosen(name, replace(t, valid=may), draw)
            chosen = torch.zeros_like(t.valid).scatter(1, mask.hide, mask.hide_valid)
            lot, noise = (draw.uniform(f"{name}/{what}", *t.places) for what in ("lot", "ids"))
            masked[name] = chosen & (lot < o.masked)
            at_random = (chosen & (lot >= o.masked) & (lot < o.masked + o.random))[..., None]
            other = alike(ids[name], may & (weight > 0)[:, None], noise, sizes[0])
            if not o.copies:
                said = repeated(ids[name], t, chosen)
                mask = replace(mask, hide_valid=mask.hide_valid & ~said.gather(1, mask.hide))
            tokens[name], masks[name] = holding(t, torch.where(at_random, other, ids[name])), mask
        return Spoiled(tokens, ids, masks, masked, weight)

    def _chosen(self, name: str, tokens: Tokens, draw: Draw) -> Mask:
        """Single fields as the option `mask` says, or whole packets or bursts."""
        o = self.options
        single = draw_masks(o, self.encoder, {name: tokens}, draw)[name]
        lot, noise = draw.uniform(f"{name}/unit", 1), draw.uniform(f"{name}/units", *tokens.places).double()
        unit = torch.where(lot < o.bursts, units(tokens.coords, 1), units(tokens.coords, 2))
        # the second term chooses in a unit that is not chosen whole
        score = noise.gather(1, unit) + 2.0**-30 * noise
        whole = keep_lowest(score, tokens.valid, o.mask_ratio, o.rounding)
        is_whole = lot < o.bursts + o.packets
        keep, keep_valid, hide, hide_valid = (
            torch.where(is_whole, getattr(whole, part), getattr(single, part))
            for part in ("keep", "keep_valid", "hide", "hide_valid")
        )
        return Mask(keep, keep_valid, hide, hide_valid)

    def _read(self, tokens: Mapping[str, Tokens], corrupt: Corrupt) -> Features:
        return super()._read(tokens, self._shown(tokens, corrupt))

    def _shown(self, tokens: Mapping[str, Tokens], corrupt: Corrupt) -> Corrupt:
        """`corrupt` of what the bytes add to an embedded token; its field stays."""
        embeddings: Any = self.encoder.project

        def shown(name: str, x: Tensor) -> Tensor:
            if name not in self.sizes:
                return corrupt(name, x)
            table: Tensor = embeddings[name].table
            ids = whole_numbers(tokens[name].patches, self.sizes[name])
            field: Tensor = table[ids[..., 0]] * table.shape[1] ** 0.5
            return corrupt(name, x - field) + field

        return shown

    def _naming(self, batch: Spoiled, logits: Mapping[str, tuple[Tensor, ...]]) -> dict[str, tuple[float, Tensor]]:
        bytes_only = {
            n: replace(t, elements=but_field(t.elements)) if n in logits else t for n, t in batch.tokens.items()
        }
        return super()._naming(replace(batch, tokens=bytes_only), logits)


def but_field(elements: Tensor) -> Tensor:
    """(B, L, C) bool, False in the first channel, the field."""
    return torch.cat([torch.zeros_like(elements[..., :1]), elements[..., 1:]], -1)


def units(coords: Tensor, axes: int) -> Tensor:
    """Numbers (B, L) int64 from 0, in order, of the bursts (1) or packets (2) that tokens at coords (B, L, d) belong to.

    An invalid token, which is at 0, belongs to the one before it.
    """
    at = coords[..., 0] if axes == 1 else coords[..., 0] * 256 + coords[..., 1]
    return F.pad(at.cummax(1).values.diff(dim=1) > 0, (1, 0)).long().cumsum(1)


def repeated(ids: Tensor, tokens: Tokens, chosen: Tensor) -> Tensor:
    """Which tokens (B, L) hold what the same field holds in the packet before of their burst, where that is not chosen."""
    burst, packet = tokens.coords[..., 0].round().long(), tokens.coords[..., 1].round().long()
    line = torch.where(tokens.valid, burst * VOCABULARY[0] + ids[..., 0], 2**30)
    order = (line * 256 + packet).argsort(dim=1, stable=True)
    line, packet, seen = (x.gather(1, order) for x in (line, packet, tokens.valid & ~chosen))
    values = ids.take_along_dim(order[..., None], 1)
    same = (
        (values[:, 1:] == values[:, :-1]).all(-1) & (line.diff(dim=1) == 0) & (packet.diff(dim=1) == 1) & seen[:, :-1]
    )
    return torch.zeros_like(chosen).scatter(1, order, F.pad(same, (1, 0)))
