"""The hierarchical encoder of flows: tokens within bursts, and bursts within a flow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import Corrupt, TokenEncoder
from unlabeled.core.nn.fitting import Sizes
from unlabeled.core.nn.transformer import Transformer, Turn, Watch, attended, xavier
from unlabeled.core.tokens.positions import rotary
from unlabeled.core.tokens.tokens import Tokens
from unlabeled.network.flow.fields import VOCABULARY


@dataclass(frozen=True)
class Levels:
    """Features of tokens and flows, and between them `bursts` (B, N, D) by number, with `there` (B, N) bool."""

    features: Features
    bursts: Tensor
    there: Tensor


class FlowEncoder(TokenEncoder):
    """Tokens of packets at (burst, packet, place) -> a vector for every token, burst and flow (Guthula et al. 2023, netFound).

    The bytes of a token and its field are embedded and summed. A learned burst token stands before the tokens of each
    burst. A layer is two pre-norm blocks: one over the tokens of every burst by itself, then one over the burst tokens of
    the flow, which go back to their bursts. Rotary positions are packet and place in the first and the number of the burst
    in the second; sincos and learned ones are added once. A burst's vector is its token with the mean of its tokens: the
    token alone, which masked tokens hardly teach, let flows fall on one point. `pooled` is the mean of the bursts' vectors by
    learned weights, a softmax over the bursts that are there, which begins as the plain mean. At the end a token is given the
    vectors of its burst and flow, so that what is learned of tokens teaches all weights; one norm ends both.

    Only bursts and tokens that are there are computed, each burst in a row of its own, and a flow has the same features
    alone and beside others. To learn its shapes it waits for the device. Raises RequestError where there is another input
    than one that is packed at three coordinates.
    """

    class Options(TokenEncoder.Options):
        depth: int = Field(4, ge=1, description="number of layers, of two blocks each")
        positions: Literal["sincos", "learned", "rope", "none"] = Field(
            "rope", description="rope: rotary, in every block; learned: a table over `grid`; none: nothing has a place"
        )
        vocabulary: Sizes | dict[str, Sizes] = Field(
            VOCABULARY,
            description="channels hold whole numbers below these: fields, high and low bytes; or by input name",
        )
        pool: Literal["attention"] = Field(  # type: ignore[assignment]
            "attention", description="how bursts become one vector: their mean by learned weights"
        )

        @model_validator(mode="after")
        def _hierarchical(self) -> FlowEncoder.Options:
            if given := [name for name in ("patch", "cls", "causal", "adapter") if getattr(self, name)]:
                raise ValueError(f"the flow encoder has no {given[0]}; leave it out, or set encoder.name: tokens")
            return self

    def __init__(self, specs: Mapping[str, InputSpec], options: Options) -> None:
        for name, spec in specs.items():
            if len(specs) > 1 or spec.layout != "packed" or spec.rank != 3:
                raise RequestError(
                    f"encoder.name: flow reads one packed input at burst, packet and place, and {name!r} is {spec.layout} "
                    f"at {', '.join(spec.axes)}, of {len(specs)}; set encoder.name: tokens"
                )
        super().__init__(specs, options)
        self.flows = Transformer(options.width, options.depth, options.heads, options.mlp_ratio).blocks
        xavier(self.flows)
        self.burst_token = nn.Parameter(torch.randn(options.width) * 0.02)
        self.score = nn.Linear(options.width, 1, bias=False)
        nn.init.zeros_(self.score.weight)

    def encode(
        self,
        tokens: Mapping[str, Tokens],
        corrupt: Corrupt | None = None,
        layers: bool = False,
        keys: Tensor | None = None,
        states: bool = False,
        attention: bool = False,
        watch: Watch | None = None,
        summary: bool = False,
    ) -> Features:
        """As that of the token encoder. Raises RequestError where what happens in or between its blocks is asked for."""
        if layers or states or attention or keys is not None or watch is not None:
            raise RequestError("the flow encoder does not tell what happens inside of it; set encoder.name: tokens")
        return self.levels(tokens, corrupt).features

    def levels(self, tokens: Mapping[str, Tokens], corrupt: Corrupt | None = None) -> Levels:
        """Features of tokens, bursts and flows."""
        ((name, t),) = tokens.items()
        embedded, _ = self.embed(tokens, corrupt)
        at = _Bursts.of(t)
        coords = torch.arange(at.N, device=t.coords.device, dtype=t.coords.dtype)[:, None]
        start = self.position(name, F.pad(coords, (0, 2))[None])  # (1, N, 3), the beginning of every burst
        own = self.burst_token.to(embedded.dtype).expand(1, at.N, -1)
        own = own if (place := self._place(start)) is None else own + place.to(own.dtype)
        x = torch.cat([own[0, at.number][:, None], at.inside(embedded.flatten(0, 1)[at.at])], 1)
        seen = F.pad(at.inside(torch.ones_like(at.at, dtype=torch.bool)), (1, 0), value=True)
        there = at.flow(torch.ones_like(at.row, dtype=torch.bool))
        turn, flow_turn = self._turns(start, at.inside(self.position(name, t.coords).flatten(0, 1)[at.at]))
        flow = at.flow(x[:, 0])
        for block, over in zip(self.transformer.blocks, self.flows, strict=True):
            x = block(x, attended(seen), turn=turn)
            flow = over(at.flow(x[:, 0]), attended(there), turn=flow_turn)
            x = torch.cat([flow[at.row, at.number][:, None], x[:, 1:]], 1)
        flow = torch.where(there[..., None], self.transformer.norm(flow + at.flow(at.mean(x[:, 1:]))), 0)
        pooled = self._mean(flow, there)
        known = (flow + pooled[:, None])[at.row, at.number]
        each = self.transformer.norm(x[at.burst, at.place + 1] + known[at.burst])
        out = each.new_zeros(t.valid.numel(), self.token_width).index_put((at.at,), each).unflatten(0, t.valid.shape)
        return Levels(Features(tokens=out, valid=t.valid, pooled=pooled), flow, there)

    def _turns(self, start: Tensor, position: Tensor) -> tuple[Turn | None, Turn | None]:
        """Rotary positions in a burst, whose token is not turned, from (R, K, 3), and of bursts, from (1, N, 3)."""
        if self.options.positions != "rope":
            return None, None
        head = self.token_width // self.options.heads
        cos, sin = rotary(position[..., 1:], head)
        return (F.pad(cos, (0, 0, 1, 0), value=1.0), F.pad(sin, (0, 0, 1, 0))), rotary(start[..., :1], head)

    def _mean(self, flow: Tensor, there: Tensor) -> Tensor:
        """(B, N, D) -> (B, D), zeros where there is no burst."""
        score = self.score(flow)[..., 0].to(torch.promote_types(flow.dtype, torch.float32))
        score = score.masked_fill(~(there | ~there.any(1, keepdim=True)), -torch.inf)
        share: Tensor = score.softmax(1).to(flow.dtype)
        return (share[..., None] * flow).sum(1)


@dataclass(frozen=True)
class _Bursts:
    """Where the T valid tokens of B rows lie in their R bursts, of at most K tokens and with numbers below N.

    at (T,) which of the B * L tokens it is; burst (T,) and place (T,) in it; row (R,) and number (R,) of a burst.
    """

    at: Tensor
    burst: Tensor
    place: Tensor
    row: Tensor
    number: Tensor
    B: int
    K: int
    N: int

    @classmethod
    def of(cls, tokens: Tokens) -> _Bursts:
        b, length = tokens.valid.shape
        at = tokens.valid.flatten().nonzero()[:, 0]
        number = tokens.coords[..., 0].flatten()[at].round().long()
        n = int(number.max()) + 1 if len(at) else 1
        known, burst, counts = torch.unique(at // length * n + number, return_inverse=True, return_counts=True)
        order = burst.argsort(stable=True)
        place = torch.empty_like(at)
        place[order] = torch.arange(len(at), device=at.device) - (counts.cumsum(0) - counts)[burst[order]]
        return cls(at, burst, place, known // n, known % n, b, int(counts.max()) if len(at) else 0, n)

    def inside(self, x: Tensor) -> Tensor:
        """(T, ...) -> (R, K, ...), zeros where a burst has no more tokens."""
        return x.new_zeros(len(self.row), self.K, *x.shape[1:]).index_put((self.burst, self.place), x)

    def mean(self, x: Tensor) -> Tensor:
        """(R, K, D) -> (R, D), over the tokens that are there."""
        total = x.new_zeros(len(self.row), x.shape[-1]).index_add(0, self.burst, x[self.burst, self.place])
        return total / x.new_zeros(len(self.row)).index_add(0, self.burst, x.new_ones(len(self.burst)))[:, None]

    def flow(self, x: Tensor) -> Tensor:
        """(R, ...) -> (B, N, ...), zeros where a flow has no such burst."""
        return x.new_zeros(self.B, self.N, *x.shape[1:]).index_put((self.row, self.number), x)
