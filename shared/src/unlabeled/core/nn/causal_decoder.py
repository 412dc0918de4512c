"""The decoder of ARM: queries that know their place alone look at features of what came before (Ren et al. 2024, fig. 2).

It stands alone as the other predictors and decoders do: a method holds no layers.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import BaseModel, ConfigDict, Field
from timm.layers.mlp import Mlp
from timm.layers.norm import LayerNorm
from torch import Tensor, nn

from unlabeled.core.nn.cross import CrossAttention, Reference
from unlabeled.core.nn.transformer import xavier
from unlabeled.core.tokens.positions import sincos


class CausalDecoder(nn.Module):
    """Cross-attention and MLP, `depth` times, then one linear layer. Queries do not look at each other."""

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        width: int = Field(128, ge=1, description="width of a token (paper: 512)")
        depth: int = Field(4, ge=1, description="number of blocks")
        heads: int = Field(4, ge=1, description="attention heads (paper: 8)")
        mlp_ratio: float = Field(4.0, gt=0, description="width of the hidden layer over the width")

    def __init__(self, token_width: int, output: int, options: Options) -> None:
        super().__init__()
        width = options.width
        self.width = width
        self.embed = nn.Linear(token_width, width)
        self.query = nn.Parameter(torch.randn(width) * 0.02)
        self.blocks = nn.ModuleList(LookBack(width, options.heads, options.mlp_ratio) for _ in range(options.depth))
        self.norm = LayerNorm(width)
        self.head = nn.Linear(width, output)
        xavier(self)

    def forward(self, features: Tensor, sees: Tensor, position: Tensor) -> Tensor:
        """features (B, L, D), sees (B, M, L) bool, positions (B, M, d) of the queries in patches -> (B, M, output)."""
        reference = Reference(self.embed(features), sees)
        x = self.query + sincos(position, self.width).to(self.query.dtype)
        for block in self.blocks:
            x = block(x, reference)
        return self.head(self.norm(x))  # type: ignore[no-any-return]


class LookBack(nn.Module):
    """Cross-attention, MLP, each with a norm before it; the reference has a norm too."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm_query, self.norm_reference, self.norm = LayerNorm(width), LayerNorm(width), LayerNorm(width)
        self.cross = CrossAttention(width, heads)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x: Tensor, reference: Reference) -> Tensor:
        x = x + self.cross(self.norm_query(x), replace(reference, tokens=self.norm_reference(reference.tokens)))
        return x + self.mlp(self.norm(x))  # type: ignore[no-any-return]
