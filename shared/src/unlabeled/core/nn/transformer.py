"""A stack of timm's blocks with a final norm: what encoder and predictor share."""

from __future__ import annotations

from typing import Any

from timm.layers.norm import LayerNorm
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from unlabeled.core.contracts import RequestError


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

    def forward(self, x: Tensor, valid: Tensor, layers: list[Tensor] | None = None) -> Tensor:
        """With a list for `layers`, what every block's MLP adds to its residual stream is put into it."""
        # a row without any valid token attends to its fillers, because an unfused softmax over nothing is NaN
        attend = (valid | ~valid.any(1, keepdim=True))[:, None, None, :]
        block: Any
        for block in self.blocks:
            if layers is None:
                x = block(x, attn_mask=attend)
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
