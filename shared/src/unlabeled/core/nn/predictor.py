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
        hidden: Mapping[str, tuple[Tensor, Tensor]],
    ) -> dict[str, Tensor]:
        """Predictions (B, M, P) of the hidden tokens by input.

        features  of the visible tokens, the inputs one after the other in the order of `outputs`
        visible   positions (B, K, d) of the visible tokens, by input
        hidden    positions (B, M, d) and validity (B, M) of the hidden tokens, by input
        """
        counts = [visible[name].shape[1] for name in self.heads]
        seen = torch.split(self.embed(features.tokens), counts, 1)
        seen_valid = torch.split(features.valid, counts, 1)
        x, valid = [], []
        for i, name in enumerate(self.heads):
            position, hidden_valid = hidden[name]
            masked = self.mask_token.to(seen[i].dtype).expand(*position.shape[:2], -1)
            place = sincos(torch.cat([visible[name], position], 1), self.width)
            both = torch.cat([seen[i], masked], 1) + place.to(self.mask_token.dtype)
            x.append(both if self.input_embedding is None else both + self.input_embedding[i])
            valid.append(torch.cat([seen_valid[i], hidden_valid], 1))
        sizes = [part.shape[1] for part in x]
        out = torch.split(self.transformer(torch.cat(x, 1), torch.cat(valid, 1)), sizes, 1)
        return {name: head(out[i][:, counts[i] :]) for i, (name, head) in enumerate(self.heads.items())}
