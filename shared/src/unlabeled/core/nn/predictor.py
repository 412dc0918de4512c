"""The predictor of MAE and I-JEPA: from the features of visible tokens, the patches or features of hidden ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from unlabeled.core.nn.base import Features
from unlabeled.core.nn.transformer import Transformer, xavier
from unlabeled.core.tokens.positions import sincos


class Predictor(nn.Module):
    """Visible features and mask tokens, all with their positions, through a small transformer (He et al. 2022, fig. 1).

    Only hidden tokens are predicted, since only they enter the loss.
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        width: int = Field(128, ge=1, description="width of a token")
        depth: int = Field(2, ge=1, description="number of blocks")
        heads: int = Field(4, ge=1, description="attention heads")
        mlp_ratio: float = Field(4.0, gt=0, description="width of the hidden layer over the width")

    def __init__(self, token_width: int, outputs: Mapping[str, int], options: Options) -> None:
        """`outputs`: elements of a predicted patch, or channels of a predicted feature, by input."""
        super().__init__()
        width = options.width
        self.width = width
        self.embed = nn.Linear(token_width, width)
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.input_embedding = nn.Parameter(torch.randn(len(outputs), width) * 0.02) if len(outputs) > 1 else None
        self.transformer = Transformer(width, options.depth, options.heads, options.mlp_ratio)
        self.heads = nn.ModuleDict({name: nn.Linear(width, p) for name, p in outputs.items()})
        xavier(self)

    def forward(
        self,
        features: Features,
        visible: Mapping[str, Tensor],
        hidden: Mapping[str, tuple[Tensor, Tensor | None]],
    ) -> dict[str, Tensor]:
        """Predictions (B, M, P) of the hidden tokens by input.

        features  of the visible tokens, the inputs one after the other in the order of `outputs`
        visible   positions (B, K, d) of the visible tokens, by input
        hidden    positions (B, M, d) and validity (B, M) of the hidden tokens, by input; None: all are, known on the host
        """
        counts = [visible[name].shape[1] for name in self.heads]
        seen = torch.split(self.embed(features.tokens), counts, 1)
        x = [self._placed(i, seen[i], visible[name]) for i, name in enumerate(self.heads)]
        x += [self._placed(i, self.mask_token.to(seen[i].dtype), hidden[name][0]) for i, name in enumerate(self.heads)]
        # hidden tokens stand last, so that the last block can leave out the visible ones
        out = self._mixed(torch.cat(x, 1), self._valid(features, hidden), sum(counts))
        parts = torch.split(out, [hidden[name][0].shape[1] for name in self.heads], 1)
        return {name: head(part) for part, (name, head) in zip(parts, self.heads.items(), strict=True)}

    def _mixed(self, x: Tensor, valid: Tensor | None, first: int) -> Tensor:
        """The blocks and the final norm, of the hidden tokens, which are those from `first` on."""
        return self.transformer(x, valid, asking=slice(first, None))  # type: ignore[no-any-return]

    def _placed(self, number: int, tokens: Tensor, position: Tensor) -> Tensor:
        """Tokens of the input of this number with their positions (B, L, d) and what tells the input."""
        placed = tokens + sincos(position, self.width).to(self.mask_token.dtype)
        return placed if self.input_embedding is None else placed + self.input_embedding[number]

    def _valid(self, features: Features, hidden: Mapping[str, tuple[Tensor, Tensor | None]]) -> Tensor | None:
        """Which tokens are valid, the visible ones first; None: all, known on the host."""
        given = [hidden[name] for name in self.heads]
        if features.whole and all(valid is None for _, valid in given):
            return None
        return torch.cat(
            [features.valid, *(features.valid.new_ones(p.shape[:2]) if v is None else v for p, v in given)], 1
        )
