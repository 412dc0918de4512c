"""What stands behind the encoder of CAE (Chen et al. 2022, Context Autoencoder, section 3.1): regressor and decoder.

The file stands alone so that both are tested by themselves: a method that must not let hidden places write into the
visible ones may take the regressor, and one that reads something off predicted latents the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unlabeled.core.nn.predictor import Predictor
from unlabeled.core.nn.transformer import Transformer, attended, xavier
from unlabeled.core.tokens.positions import sincos


class Regressor(Predictor):
    """A predictor in which the visible tokens are only looked at: no block changes them, as in cross-attention.

    A hidden token looks at the visible ones, and at the hidden ones as the block before left them.
    """

    def _mixed(self, x: Tensor, valid: Tensor | None, first: int) -> Tensor:
        attend = None if valid is None else attended(valid)
        context, own = x[:, :first], x[:, first:]
        for block in self.transformer.blocks:
            own = block(torch.cat([context, own], 1), attend, asking=slice(first, None))
        return self.transformer.norm(own)  # type: ignore[no-any-return]


class LatentDecoder(nn.Module):
    """Reads something off the latents of tokens and their positions: self-attention among them, and a linear layer."""

    def __init__(self, token_width: int, outputs: Mapping[str, int], options: Predictor.Options) -> None:
        """`outputs`: numbers read off a token, by input."""
        super().__init__()
        self.width = options.width
        self.embed = nn.Linear(token_width, options.width)
        self.transformer = Transformer(options.width, options.depth, options.heads, options.mlp_ratio)
        self.heads = nn.ModuleDict({name: nn.Linear(options.width, p) for name, p in outputs.items()})
        xavier(self)

    def forward(
        self, latents: Mapping[str, Tensor], places: Mapping[str, tuple[Tensor, Tensor | None]]
    ) -> dict[str, Tensor]:
        """(B, M, D) -> (B, M, P) by input; places: positions (B, M, d) and validity (B, M), None: all."""
        names = [*self.heads]
        x = [self.embed(latents[n]) for n in names]
        x = [t + sincos(places[n][0], self.width).to(t.dtype) for n, t in zip(names, x, strict=True)]
        valids = [places[n][1] for n in names]
        valid = None
        if any(v is not None for v in valids):
            ones = x[0].new_ones((), dtype=torch.bool)
            valid = torch.cat([ones.expand(t.shape[:2]) if v is None else v for v, t in zip(valids, x, strict=True)], 1)
        out = torch.split(self.transformer(torch.cat(x, 1), valid), [t.shape[1] for t in x], 1)
        return {n: self.heads[n](part) for n, part in zip(names, out, strict=True)}
