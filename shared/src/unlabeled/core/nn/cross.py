"""Cross-attention: tokens of one sequence look at those of another, each with its own validity and positions.

The predictors of cross-view completion and of CAE (Weinzaepfel et al. 2022, CroCo, section 3.2) are made of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from timm.layers.norm import LayerNorm
from torch import Tensor, nn

from unlabeled.core.nn.base import Features
from unlabeled.core.nn.predictor import Predictor
from unlabeled.core.nn.transformer import ALL, Block, Turn, attended, xavier
from unlabeled.core.tokens.positions import rotary, rotate, sincos


@dataclass(frozen=True)
class Reference:
    """What is looked at: tokens (B, L, D), validity (B, L), None: all are, known on the host; rotary positions or None.

    valid may be (B, M, L) too: which of them each of M queries looks at.
    """

    tokens: Tensor
    valid: Tensor | None = None
    turn: Turn | None = None


class CrossAttention(nn.Module):
    """Queries of one sequence, keys and values of another. A row without a valid reference gets zeros."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, reference: Reference, turn: Turn | None = None) -> Tensor:
        """(B, M, D) -> (B, M, D). turn: rotary positions of the queries, where the reference has them too."""
        key, value = self.key_value(reference.tokens).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (self.query(x), key, value))
        if turn is not None and reference.turn is not None:
            q, k = rotate(q, turn), rotate(k, reference.turn)
        valid = reference.valid
        if valid is None:
            return self._out(F.scaled_dot_product_attention(q, k, v))
        # an unfused softmax over nothing is NaN, so a query without a reference looks at its fillers, and forgets it
        valid = valid[:, None] if valid.ndim == 2 else valid
        any_valid = valid.any(-1, keepdim=True)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=(valid | ~any_valid)[:, None])
        return torch.where(any_valid, self._out(mixed), 0)

    def _out(self, mixed: Tensor) -> Tensor:
        return self.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class CrossBlock(Block):
    """Self-attention, cross-attention, MLP, each with a norm before it; the reference has a norm too."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__(width, heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=LayerNorm)
        self.norm_query, self.norm_reference = LayerNorm(width), LayerNorm(width)
        self.cross = CrossAttention(width, heads)

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        asking: slice = ALL,
        turn: Turn | None = None,
        reference: Reference | None = None,
    ) -> Tensor:
        """As `Block`, which it is without a reference."""
        if reference is None:
            return super().forward(x, attn_mask, is_causal, asking, turn)
        own = x[:, asking]
        own = own + self.attend(self.norm1(x), attn_mask, asking, turn)
        seen = replace(reference, tokens=self.norm_reference(reference.tokens))
        own_turn = None if turn is None else (turn[0][:, :, asking], turn[1][:, :, asking])
        own = own + self.cross(self.norm_query(own), seen, own_turn)
        return own + self.mlp(self.norm2(own))  # type: ignore[no-any-return]


class CrossPredictor(Predictor):
    """A predictor whose blocks look at a reference too, between self-attention and MLP.

    Weights that are not of cross-attention have the names they have in `Predictor`. Where the output projections of
    cross-attention are 0, or there is no reference, it predicts what a `Predictor` of those weights does.
    """

    class Options(Predictor.Options):
        positions: Literal["sincos", "rope"] = Field(
            "sincos", description="sincos: added to the tokens; rope: rotary, in every block (CroCo v2)"
        )

    def __init__(self, token_width: int, outputs: Mapping[str, int], options: Options) -> None:
        super().__init__(token_width, outputs, options)
        width, heads = options.width, options.heads
        self.head_width = width // heads if options.positions == "rope" else None
        self.transformer.blocks = nn.ModuleList(
            CrossBlock(width, heads, options.mlp_ratio) for _ in range(options.depth)
        )
        xavier(self.transformer)

    def forward(
        self,
        features: Features,
        visible: Mapping[str, Tensor],
        hidden: Mapping[str, tuple[Tensor, Tensor | None]],
        reference: Features | None = None,
        places: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """As `Predictor`. reference: features that are looked at; places: their positions (B, L, d) by input, in order.

        The inputs of the reference may be others than those of the predictions.
        """
        names = [*self.heads]
        positions = [*(visible[name] for name in names), *(hidden[name][0] for name in names)]
        counts = [p.shape[1] for p in positions]
        seen = torch.split(self.embed(features.tokens), counts[: len(names)], 1)
        tokens = [*seen, *(self.mask_token.to(seen[0].dtype) for _ in names)]
        x = [self._placed(i % len(names), *at) for i, at in enumerate(zip(tokens, positions, strict=True))]
        looked_at = None if reference is None else self._looked_at(reference, places or {})
        valid = self._valid(features, hidden)
        attend = None if valid is None else attended(valid)
        out, turn, last = torch.cat(x, 1), self._turn(positions), len(self.transformer.blocks) - 1
        for number, block in enumerate(self.transformer.blocks):
            asking = slice(sum(counts[: len(names)]), None) if number == last else ALL
            out = block(out, attend, asking=asking, turn=turn, reference=looked_at)
        parts = torch.split(self.transformer.norm(out), counts[len(names) :], 1)
        return {name: head(part) for part, (name, head) in zip(parts, self.heads.items(), strict=True)}

    def _looked_at(self, reference: Features, places: Mapping[str, Tensor]) -> Reference:
        positions = [*places.values()]
        parts = torch.split(self.embed(reference.tokens), [p.shape[1] for p in positions], 1)
        tokens = torch.cat([self._at(*at) for at in zip(parts, positions, strict=True)], 1)
        return Reference(tokens, None if reference.whole else reference.valid, self._turn(positions))

    def _placed(self, number: int, tokens: Tensor, position: Tensor) -> Tensor:
        placed = self._at(tokens, position)
        return placed if self.input_embedding is None else placed + self.input_embedding[number]

    def _at(self, tokens: Tensor, position: Tensor) -> Tensor:
        """Tokens at positions (B, L, d), which they are told in the blocks where positions are rotary."""
        if self.head_width is not None:
            return tokens.expand(*position.shape[:2], -1)
        return tokens + sincos(position, self.width).to(self.mask_token.dtype)

    def _turn(self, positions: Sequence[Tensor]) -> Turn | None:
        if self.head_width is None:
            return None
        cos, sin = zip(*(rotary(p, self.head_width) for p in positions), strict=True)
        return torch.cat(cos, 2), torch.cat(sin, 2)
