"""What every encoder gives, whatever its kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import BatchInput


@dataclass(frozen=True)
class Features:
    """tokens (B, L, D) with valid (B, L) bool; pooled (B, P), over valid tokens only."""

    tokens: Tensor
    valid: Tensor
    pooled: Tensor


class Encoder(nn.Module):
    """Maps the named inputs of a batch to features.

    specs         contract of each named input
    width         P, the width of `Features.pooled`
    token_width   D, the width of `Features.tokens`
    """

    def __init__(self, specs: Mapping[str, InputSpec], width: int, token_width: int) -> None:
        super().__init__()
        self.specs = dict(specs)
        self.width = width
        self.token_width = token_width

    def forward(self, inputs: Mapping[str, BatchInput]) -> Features:
        raise NotImplementedError  # pragma: no cover
