"""Heads: what is put on an encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from unlabeled.core.nn.base import Features
from unlabeled.core.nn.norms import RankBatchNorm
from unlabeled.core.tokens.patches import grid_of, unpatchify


class Projector(nn.Module):
    """(B, width) -> (B, sizes[-1]): linear layers with batch norm and ReLU between them (Chen et al. 2020, SimCLR, B.9)."""

    def __init__(self, width: int, sizes: Sequence[int], norm: bool = True) -> None:
        super().__init__()
        widths = (width, *sizes)
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=not norm or i == len(sizes) - 1) for i, (a, b) in enumerate(pairwise(widths))
        )
        self.norms = nn.ModuleList(RankBatchNorm(size) for size in sizes[:-1] if norm)

    def forward(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        """Rows with `weight` (B,) 0 count in no norm."""
        for i, layer in enumerate(self.layers[:-1]):
            x = layer(x)
            x = (self.norms[i](x, weight) if self.norms else x).relu()
        return self.layers[-1](x)  # type: ignore[no-any-return]


class ClassificationHead(nn.Module):
    """Pooled features -> logits (B, classes)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, classes)

    def forward(self, features: Features) -> Tensor:
        return self.linear(features.pooled)  # type: ignore[no-any-return]


class SegmentationHead(nn.Module):
    """Tokens of one dense input -> logits (B, classes, *S) of every cell: each token predicts the cells of its patch.

    `patch` is the token encoder's patch, or a convnet's `stride`.
    """

    def __init__(self, token_width: int, classes: int, patch: Sequence[int]) -> None:
        super().__init__()
        self.patch = tuple(patch)
        self.linear = nn.Linear(token_width, math.prod(self.patch) * classes)

    def forward(self, features: Features, shape: Sequence[int]) -> Tensor:
        logits = unpatchify(self.linear(features.tokens), grid_of(shape, self.patch), self.patch)
        for axis, s in enumerate(shape, start=2):
            logits = logits.narrow(axis, 0, s)
        return logits
