"""A stack of timm's blocks with a final norm: what encoder and predictor share."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.layers.norm import LayerNorm
from timm.models import vision_transformer
from torch import Tensor, nn

from unlabeled.core.contracts import RequestError


class Block(vision_transformer.Block):
    """timm's block, which can also be asked for the last tokens only."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False, first: int = 0) -> Tensor:
        """(B, L, D) -> (B, L - first, D): tokens before `first` are attended to, and ask nothing themselves."""
        if first == 0:
            return super().forward(x, attn_mask, is_causal)
        attn: Any = self.attn
        width = x.shape[-1]
        weight, bias = attn.qkv.weight, attn.qkv.bias
        normed, own = self.norm1(x), x[:, first:]
        query = F.linear(normed[:, first:], weight[:width], bias[:width])
        key, value = F.linear(normed, weight[width:], bias[width:]).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (attn.num_heads, -1)).transpose(1, 2) for t in (query, key, value))  # type: ignore[no-untyped-call]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=attn_mask)
        own = own + attn.proj(mixed.transpose(1, 2).flatten(2))
        return own + self.mlp(self.norm2(own))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Pre-norm transformer (B, L, D) -> (B, L, D). Invalid tokens are never attended to.

    Raises RequestError where the heads do not divide the width.
    """

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        if width % heads:
            raise RequestError(f"a width of {width} cannot be shared by {heads} heads; choose a multiple of {heads}")
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio=mlp_ratio, qkv_bias=True, norm_layer=LayerNorm) for _ in range(depth)
        )
        self.norm = LayerNorm(width)

    def forward(self, x: Tensor, valid: Tensor | None, layers: list[Tensor] | None = None, first: int = 0) -> Tensor:
        """With a list for `layers`, what every block's MLP adds to its residual stream is put into it.

        valid  (B, L) bool; None: all, known on the host, which spares attention its mask
        first  only the tokens from here on are wanted, (B, L - first, D): the last block computes no others
        """
        attend = None
        if valid is not None:
            # a row without any valid token attends to its fillers, because an unfused softmax over nothing is NaN
            attend = (valid | ~valid.any(1, keepdim=True))[:, None, None, :]
        if not self.blocks:
            x = x[:, first:]
        block: Any
        for number, block in enumerate(self.blocks, 1):
            if layers is None:
                x = block(x, attend, first=first if number == len(self.blocks) else 0)
            else:  # the same in its two halves
                x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), attn_mask=attend)))
                layers.append(block.ls2(block.mlp(block.norm2(x))))
                x = x + block.drop_path2(layers[-1])
        return self.norm(x)  # type: ignore[no-any-return]


def xavier(module: nn.Module) -> None:
    """Start values of He et al. 2022 (MAE): Xavier uniform weights and zero biases in every linear layer."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
