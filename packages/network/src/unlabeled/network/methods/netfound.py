"""netFound: Guthula et al. 2023, netFound: Foundation Model for Network Security."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.ids import detection
from unlabeled.core.losses.masked import masked_l1
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.masked_tokens import Spoiled
from unlabeled.core.nn.ids import whole_numbers
from unlabeled.core.nn.transformer import xavier
from unlabeled.core.tokens.tokens import Tokens
from unlabeled.network.corruption import close, everybody, exchanged, numbers, own, present, ring, without
from unlabeled.network.encoder import FlowEncoder
from unlabeled.network.flow.fields import BURST, TYPES, VOCABULARY, first
from unlabeled.network.methods.masked_packets import MaskedPackets

TRANSPORT = ("tcp", "udp", "icmp")
OWN, GAP = len(BURST), first("gap")  # a burst's own fields come first: direction, bytes, packets, gap
# from what they count over a flow, or from clocks, follows what other bursts hold
COUNTERS = ("seq", "ack", "tcp options")
OCTAVES = 8.0  # an error of 1 is a factor of 2^8: metadata then cost about as much as the other tasks


@dataclass(frozen=True)
class Posed(Spoiled):
    """With what is asked of bursts: `swapped` (B,) bool, for flows that count by `asked` (B,) bool; `said` (B, N, 4), direction
    (above 0: back), bytes, packets and gap, of the bursts that are `hidden` (B, N) bool."""

    swapped: Tensor
    asked: Tensor
    said: Tensor
    hidden: Tensor


class NetFound(MaskedPackets):
    """Name hidden fields, tell flows with a foreign burst, and predict bytes, packets, gap and direction of hidden bursts.

    The four losses of Guthula et al. 2023 and of the authors' code, on the hierarchical encoder. (1) Of 30 % of the tokens
    name high and low byte, as `masked_packets`. (2) In a share of the flows a burst is replaced by that of the same
    number of another flow of the same protocol: its own tokens, those of its packets, and how many they are; binary
    cross-entropy on the pooled vector. (3) Of flows with more than three bursts some bursts are hidden: all tokens of
    their packets are taken out, so that neither sizes nor their number tell, and the burst's own are masked; their bytes,
    packets and gap in octaves cost L1, and (4) their direction binary cross-entropy, both read off the burst's vector.
    Swapped bursts have neither task (1) nor (3) and (4). Weights of the sum are those of the released script; to start, its
    maintainers advise naming 1, swap and direction 0.8 and metadata 0.1, and the others later (netFound#9).

    From sequence and acknowledgement numbers, and from clocks in TCP options, bytes and gap of another burst follow by
    subtraction, and that a burst is foreign. So (2) to (4) are asked only of the share `blind` of the flows, of which those
    tokens are taken out altogether. Gaps count from the burst before in the same direction, so one that may count from a
    hidden burst is taken out too. What remains to be read: that a burst is there, and between which others in order and
    time; windows, which shrink as bytes wait; payload, where it is read; that a first burst is the client's and has no gap.

    Deviations: those of `masked_packets`, with single tokens hidden; a swap takes all of a burst, within one protocol, from
    the unchanged flow of another item, where the code takes ids alone, whatever the mask and protocol, and at a batch of one
    from the flow itself; metadata are asked of bursts that are hidden whole, where the code leaves lengths in view;
    learned vectors hide them, where the code writes a 0, which is a legal gap; octaves in place of kB, counts and seconds.
    Raises RequestError for another encoder than `flow`.
    """

    class Options(MaskedPackets.Options):
        packets: float = Field(0.0, ge=0, le=1, description="share of the flows of which whole packets are chosen")
        bursts: float = Field(0.0, ge=0, le=1, description="share of the flows of which whole bursts are chosen")
        copies: bool = Field(True, description="name also what the packet before says alike")
        blind: float = Field(
            0.5, ge=0, le=1, description="share of the flows without counters, of which bursts are asked for"
        )
        swap: float = Field(0.5, ge=0, le=1, description="share of those that get a foreign burst")
        hidden: float = Field(0.3, ge=0, le=1, description="share of the bursts of those that are hidden")
        naming_weight: float = Field(1.0, ge=0, description="of the names of hidden fields")
        swap_weight: float = Field(1.0, ge=0, description="of telling swapped flows")
        metadata_weight: float = Field(0.4, ge=0, description="of bytes, packets and gap of hidden bursts")
        direction_weight: float = Field(1.0, ge=0, description="of their direction")

    name = "netfound"
    encoder: FlowEncoder
    counter: Tensor
    transport: Tensor

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        if not isinstance(encoder, FlowEncoder):
            raise RequestError(
                f"method {self.name}: needs vectors of bursts, and {type(encoder).__name__} has none; set encoder.name: flow"
            )
        super().__init__(encoder, specs, options, views)
        (self.input,) = encoder.specs
        width = encoder.token_width
        self.tell, self.measure = nn.Linear(width, 1), nn.Linear(width, 4)
        for head in (self.tell, self.measure):
            xavier(head)
        self.register_buffer("counter", torch.tensor([name in COUNTERS for name, *_ in TYPES]), persistent=False)
        of = torch.tensor([TRANSPORT.index(t[2]) + 1 if t[2] in TRANSPORT else 0 for t in TYPES])
        self.register_buffer("transport", of, persistent=False)

    def on_batch(self, batch: Batch, ctx: Context) -> Posed:
        batch, o, draw = self.views(batch, ctx.draw(batch, "view")), self.options, ctx.draw(batch, "bursts")
        t = self.encoder.tokenise(batch.inputs)[self.input]
        kind = (self.transport[field_of(t)] * t.valid).amax(1)
        everyone = everybody(t)
        count = int(numbers(everyone).max()) + 1
        donor, found = ring(batch.index, batch.weight * t.valid.any(1), kind, ctx.shared("swap"))
        both = present(t, count) & present(everyone, count)[donor]
        number = torch.where(both, draw.uniform("number", count), -1.0).argmax(1)
        blind = draw.uniform("blind", 1) < o.blind
        asked = found & both.any(1) & blind[:, 0]
        swapped = asked & (draw.uniform("swap", 1)[:, 0] < o.swap)
        t = exchanged(t, everyone, donor, number, swapped)

        said, complete = metadata(t, count)
        there = present(t, count)
        foreign = swapped[:, None] & (torch.arange(count, device=number.device) == number[:, None])
        hidden = blind & (there.sum(1, keepdim=True) > 3) & complete & ~foreign
        hidden = hidden & (draw.uniform("hidden", count) < o.hidden)
        doubtful = unsure(said[..., 0] > 0, there, hidden)
        at, field = numbers(t), field_of(t)
        gone = (
            (self.counter[field] & blind) | (hidden.gather(1, at) & ~own(t)) | (doubtful.gather(1, at) & (field == GAP))
        )
        t = close(without(t, gone))
        of_hidden = hidden.gather(1, numbers(t)) & t.valid
        never = of_hidden | foreign.gather(1, numbers(t))
        spoiled = self._spoiled({self.input: t}, batch.weight, ctx.draw(batch, "mask"), never)
        masked = {self.input: spoiled.masked[self.input] | of_hidden}
        return Posed(**vars(replace(spoiled, masked=masked)), swapped=swapped, asked=asked, said=said, hidden=hidden)

    def step(self, batch: Spoiled, ctx: Context) -> dict[str, Any]:
        assert isinstance(batch, Posed)
        o, name, mask = self.options, self.input, batch.masks[self.input]
        hide = batch.masked[name][..., None]
        corrupt = self._shown(batch.tokens, lambda _, x: torch.where(hide, self.mask_token.to(x.dtype), x))
        levels = self.encoder.levels(batch.tokens, corrupt)
        chosen = levels.features.tokens.take_along_dim(mask.hide[..., None], 1)
        named = self._naming(batch, {name: self.heads[name](chosen, self.encoder.project[name])})
        n, pooled = levels.bursts.shape[1], levels.features.pooled
        guess, weight = self.measure(levels.bursts), batch.hidden[:, :n] * batch.weight[:, None]
        swap = detection(self.tell(pooled)[:, 0], batch.swapped, batch.asked * batch.weight)
        metadata = masked_l1(guess[..., 1:], batch.said[:, :n, 1:] / OCTAVES, weight[..., None])
        direction = detection(guess[..., 0], batch.said[:, :n, 0] > 0, weight)
        terms = {
            "naming": (o.naming_weight, named[f"naming_{name}"][1]),
            "swap": (o.swap_weight, swap),
            "metadata": (o.metadata_weight, metadata),
            "direction": (o.direction_weight, direction),
        }
        return weighted(terms, pooled)


def field_of(tokens: Tokens) -> Tensor:
    """The field of every token, (B, L) int64."""
    return whole_numbers(tokens.patches, VOCABULARY)[..., 0]


def metadata(tokens: Tokens, count: int) -> tuple[Tensor, Tensor]:
    """What is said of the bursts below `count`: (B, count, 4) values in octaves, and (B, count) bool where all four are there."""
    ids = whole_numbers(tokens.patches, VOCABULARY)
    of = tokens.valid & own(tokens) & (ids[..., 0] < OWN)
    at = torch.where(of, numbers(tokens) * OWN + ids[..., 0], count * OWN)
    none = torch.zeros(len(at), count * OWN + 1, device=at.device)
    shape = (len(at), count, OWN)
    value = none.scatter(1, at, ids[..., 1].float() + ids[..., 2].float() / 256)[:, :-1].reshape(shape)
    return value, none.scatter(1, at, 1.0)[:, :-1].reshape(shape).bool().all(-1)


def unsure(back: Tensor, there: Tensor, hidden: Tensor) -> Tensor:
    """Which bursts (B, N) may have a hidden one as the one before in their direction, from which their gap counts.

    back, there, hidden (B, N) bool. Directions of hidden bursts are not looked at, so that the answer does not tell them.
    """
    at = torch.arange(there.shape[1], device=there.device)
    last_hidden = torch.where(hidden, at, -1).cummax(1).values
    seen = there & ~hidden
    last = [
        F.pad(torch.where(seen & (back == way), at, -1).cummax(1).values[:, :-1], (1, 0), value=-1)
        for way in (False, True)
    ]
    return seen & (last_hidden > torch.where(back, last[1], last[0]))
