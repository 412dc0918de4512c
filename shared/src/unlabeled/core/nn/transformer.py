"""A stack of timm's blocks with a final norm: what encoder and predictor share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers.norm import LayerNorm
from timm.models import vision_transformer
from torch import Tensor, nn

from unlabeled.core.contracts import RequestError
from unlabeled.core.nn.adapter import AdaptableMlp
from unlabeled.core.tokens.clusters import attends
from unlabeled.core.tokens.positions import rotate

Turn = tuple[Tensor, Tensor]
ALL = slice(None)


class Block(vision_transformer.Block):
    """timm's block, which can also be asked for some tokens only, and can turn queries and keys by their positions."""

    def forward(
        self,
        x: Tensor,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
        asking: slice = ALL,
        turn: Turn | None = None,
    ) -> Tensor:
        """(B, L, D) -> those tokens that are `asking`; all are attended to.

        turn: of all tokens, as `tokens.positions.rotary` gives it.
        """
        if asking == ALL and turn is None:
            return super().forward(x, attn_mask, is_causal)
        own = x[:, asking]
        own = own + self.attend(self.norm1(x), attn_mask, asking, turn)
        return own + self.mlp(self.norm2(own))  # type: ignore[no-any-return]

    def attend(self, normed: Tensor, attn_mask: Tensor | None, asking: slice = ALL, turn: Turn | None = None) -> Tensor:
        """What attention gives to the tokens that are asking."""
        attn: Any = self.attn
        width = normed.shape[-1]
        weight, bias = attn.qkv.weight, attn.qkv.bias
        query = F.linear(normed[:, asking], weight[:width], bias[:width])
        key, value = F.linear(normed, weight[width:], bias[width:]).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (query, key, value))  # type: ignore[no-untyped-call]
        if turn is not None:
            q, k = rotate(q, (turn[0][:, :, asking], turn[1][:, :, asking])), rotate(k, turn)
        if attn_mask is not None and attn_mask.shape[-2] > 1:
            attn_mask = attn_mask[..., asking, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        return attn.proj(mixed.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def attention(self, normed: Tensor, attn_mask: Tensor | None, turn: Turn | None = None) -> Tensor:
        """How much every token attends to every other, (B, heads, L, L), a softmax over the last axis; at least fp32."""
        attn: Any = self.attn
        q, k, _ = attn.qkv(normed).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if turn is not None:
            q, k = rotate(q, turn), rotate(k, turn)
        score: Tensor = (q @ k.transpose(-2, -1) * attn.scale).to(torch.promote_types(q.dtype, torch.float32))
        return (score if attn_mask is None else score.masked_fill(~attn_mask, -torch.inf)).softmax(-1)


# A block, its tokens (B, L, D), which of them are attended to (broadcastable to (B, heads, L, L)), rotary positions.
Watch = Callable[[Block, Tensor, Tensor | None, Turn | None], None]


class Transformer(nn.Module):
    """Pre-norm transformer (B, L, D) -> (B, L, D). Invalid tokens are never attended to.

    Raises RequestError where the heads do not divide the width.
    """

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        if width % heads:
            raise RequestError(f"a width of {width} cannot be shared by {heads} heads; choose a multiple of {heads}")
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=LayerNorm, mlp_layer=AdaptableMlp)
            for _ in range(depth)
        )
        self.norm = LayerNorm(width)

    def forward(
        self,
        x: Tensor,
        valid: Tensor | None,
        layers: list[Tensor] | None = None,
        asking: slice = ALL,
        order: Tensor | None = None,
        turn: Turn | None = None,
        states: list[Tensor] | None = None,
        attention: list[Tensor] | None = None,
        watch: Watch | None = None,
    ) -> Tensor:
        """With a list for `layers`, what every block's MLP adds to its residual stream is put into it; with one for
        `states` that stream after every block, and with one for `attention` the last block's weights (B, heads, L, L).

        valid  (B, L) bool; None: all, known on the host, which spares attention its mask
        asking  only these tokens are wanted: the last block computes no others
        order  (B, L) int64: a token attends to those of no higher number only (see `tokens.clusters`); None: to all
        turn   rotary positions of the tokens; None: none
        watch  is called before every block with what the block is given, for losses on what a block does
        """
        attend = None
        if order is not None:
            attend = attends(order, torch.ones_like(order, dtype=torch.bool) if valid is None else valid)
        elif valid is not None:
            attend = attended(valid)
        if not self.blocks:
            x = x[:, asking]
        block: Any
        for number, block in enumerate(self.blocks, 1):
            if watch is not None:
                watch(block, x, attend, turn)
            if attention is not None and number == len(self.blocks):
                attention.append(block.attention(block.norm1(x), attend, turn))
            if layers is None:
                x = block(x, attend, asking=asking if number == len(self.blocks) else ALL, turn=turn)
            else:  # the same in its two halves
                normed = block.norm1(x)
                mixed = (
                    block.attn(normed, attn_mask=attend) if turn is None else block.attend(normed, attend, turn=turn)
                )
                x = x + block.drop_path1(block.ls1(mixed))
                layers.append(block.ls2(block.mlp(block.norm2(x))))
                x = x + block.drop_path2(layers[-1])
            if states is not None:
                states.append(x)
        return self.norm(x)  # type: ignore[no-any-return]


def attended(valid: Tensor) -> Tensor:
    """(B, 1, 1, L) bool, the valid tokens (B, L), which all attend to.

    A row without any attends to its fillers, because an unfused softmax over nothing is NaN.
    """
    return (valid | ~valid.any(1, keepdim=True))[:, None, None, :]


def xavier(module: nn.Module) -> None:
    """Start values of He et al. 2022 (MAE): Xavier uniform weights and zero biases in every linear layer."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
