"""The decoder of data2vec 2.0: convolutions over the grid of tokens, of any rank.

It stands alone because any method that predicts over a whole grid can take it (data2vec 2.0 has it for sound and signals too).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from unlabeled.core.contracts import RequestError
from unlabeled.core.nn.convnet import CONVOLUTIONS


class ConvDecoder(nn.Module):
    """Grouped convolution, layer norm without scale, GELU and a residual, `depth` times, then one linear layer.

    Baevski et al. 2022, section 3.4; their images have depth 6, kernel 3 and 16 groups. Invalid tokens are zero before
    every convolution. Raises RequestError where the groups do not divide the widths.
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        width: int = Field(192, ge=1, description="channels of a layer")
        depth: int = Field(4, ge=1, description="number of convolutions")
        kernel: int = Field(3, ge=1, description="tokens a convolution sees along each axis, odd")
        groups: int = Field(16, ge=1, description="groups of channels that do not see each other in a convolution")

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if self.kernel % 2 == 0:
                raise ValueError("kernel must be odd, so that it has a middle")
            return self

    def __init__(self, token_width: int, output: int, rank: int, options: Options) -> None:
        super().__init__()
        widths = [token_width, *[options.width] * options.depth]
        if any(w % options.groups for w in widths):
            raise RequestError(
                f"decoder: {options.groups} groups do not divide the widths {token_width} (encoder) and {options.width} "
                f"(decoder); set method.decoder.groups to {math.gcd(*widths, options.groups)}"
            )
        make, padding = CONVOLUTIONS[rank], options.kernel // 2
        self.convs = nn.ModuleList(
            make(a, b, options.kernel, padding=padding, groups=options.groups) for a, b in pairwise(widths)
        )
        self.head = nn.Linear(options.width, output)

    def forward(self, tokens: Tensor, valid: Tensor | None, grid: Sequence[int]) -> Tensor:
        """tokens (B, L, D) in the raster order of `grid` and valid (B, L), None: all -> (B, L, output)."""
        x = tokens.transpose(1, 2).reshape(len(tokens), -1, *grid)
        there = None if valid is None else valid.reshape(len(tokens), 1, *grid)
        for conv in self.convs:
            y = conv(x if there is None else torch.where(there, x, 0)).movedim(1, -1)
            y = F.gelu(F.layer_norm(y, y.shape[-1:])).movedim(-1, 1)
            x = x + y if x.shape == y.shape else y
        return self.head(x.flatten(2).transpose(1, 2))  # type: ignore[no-any-return]
