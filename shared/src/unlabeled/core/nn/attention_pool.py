"""Attention pooling: a learned token that gathers a set of tokens through a small transformer. It stands alone for every
method or head that needs one vector for what an encoder without a class token gives (Selfie first)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlabeled.core.nn.transformer import Transformer, xavier


class AttentionPool(nn.Module):
    """tokens (B, L, D), valid (B, L) -> (B, D) (Trinh et al. 2019, Selfie, section 2.2). A row without any gives its token."""

    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(width) * 0.02)
        self.transformer = Transformer(width, depth, heads, mlp_ratio)
        xavier(self.transformer)

    def forward(self, tokens: Tensor, valid: Tensor | None) -> Tensor:
        """valid None: all are, known on the host."""
        own = self.token.to(tokens.dtype).expand(len(tokens), 1, -1)
        seen = None if valid is None else torch.cat([valid, valid.new_ones(len(valid), 1)], 1)
        # it stands last, so that the last block leaves the others out
        return self.transformer(torch.cat([tokens, own], 1), seen, asking=slice(tokens.shape[1], None))[:, 0]  # type: ignore[no-any-return]
