"""SimMIM: Xie et al. 2022, SimMIM, a Simple Framework for Masked Image Modeling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch, BatchInput
from unlabeled.core.losses.masked import masked_l1, normalised_patches
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.masking import Masking, draw_masks, token_encoder
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.transformer import Watch, xavier
from unlabeled.core.tokens.masks import Mask
from unlabeled.core.tokens.tokens import Tokens


@dataclass(frozen=True)
class Corrupted:
    """All tokens of a batch, which of them are hidden, and the inputs they were cut from, by input; weight (B,)."""

    tokens: dict[str, Tokens]
    masks: dict[str, Mask]
    inputs: Mapping[str, BatchInput]
    weight: Tensor

    def truth(self, name: str) -> Tokens:
        """The hidden tokens of an input, as they are."""
        return self.masks[name].hidden(self.tokens[name])


class SimMIM(Method):
    """Put a learned token in the place of the hidden patches, encode all, and read the raw patches off with one layer.

    The loss is the mean over inputs of the L1 distance on hidden patches (section 3.4). The paper hides squares of 32 px,
    which are several tokens: that is `mask: block`. Raises RequestError where the encoder works on no tokens.

    A subclass with another target gives `outputs`, `target` and `distance`, and `term`, the name of its loss.

    Deviations: single random tokens are hidden by default, not squares of 32 px; a token's features predict its own
    patch by one linear layer, where the authors' convolution and pixel shuffle do so for each stride of 32.
    """

    term = "l1"

    class Options(Masking):
        mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of the valid tokens that is hidden")
        norm_target: bool = Field(False, description="predict patches normalised by their own mean and deviation")

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, type(self).__name__.lower(), pixels=True)
        super().__init__(encoder, specs, options, views)
        self.mask_token = nn.Parameter(torch.randn(encoder.token_width) * 0.02)
        self.heads = nn.ModuleDict({n: nn.Linear(encoder.token_width, p) for n, p in self.outputs().items()})
        xavier(self.heads)

    def outputs(self) -> Mapping[str, int]:
        """Numbers predicted for a token, by input."""
        return self.encoder.patch_widths

    def on_batch(self, batch: Batch, ctx: Context) -> Corrupted:
        batch = self.views(batch, ctx.draw(batch, "view"))
        tokens = self.encoder.tokenise(batch.inputs)
        masks = draw_masks(self.options, self.encoder, tokens, ctx.draw(batch, "mask"))
        return Corrupted(tokens, masks, batch.inputs, batch.weight)

    def step(self, batch: Corrupted, ctx: Context) -> dict[str, Any]:
        terms, features = self._terms(batch)
        return weighted(terms, features.pooled)

    def _terms(self, batch: Corrupted, watch: Watch | None = None) -> tuple[dict[str, tuple[float, Tensor]], Features]:
        hidden = {n: torch.zeros_like(t.valid).scatter(1, batch.masks[n].hide, True) for n, t in batch.tokens.items()}

        def corrupt(name: str, x: Tensor) -> Tensor:
            return torch.where(hidden[name][..., None], self.mask_token.to(x.dtype), x)

        features = self.encoder.encode(batch.tokens, corrupt, watch=watch)
        parts = torch.split(features.tokens, [t.valid.shape[1] for t in batch.tokens.values()], 1)
        share = 1 / len(parts)
        terms = {f"{self.term}_{n}": (share, self._loss(n, x, batch)) for n, x in zip(batch.tokens, parts, strict=True)}
        return terms, features

    def _loss(self, name: str, features: Tensor, batch: Corrupted) -> Tensor:
        pred = self.heads[name](features.take_along_dim(batch.masks[name].hide[..., None], 1))
        target, there = self.target(name, batch)
        return self.distance(pred, target, there * batch.weight[:, None, None])

    def target(self, name: str, batch: Corrupted) -> tuple[Tensor, Tensor]:
        """What the hidden tokens (B, M, P) of an input shall give, and which of it counts (B, M, 1 | P) bool."""
        truth = batch.truth(name)
        patches = normalised_patches(truth.patches, truth.elements) if self.options.norm_target else truth.patches
        return patches, truth.elements

    def distance(self, pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
        """The global loss of predictions (B, M, P), weight as `masked_mse` has it."""
        return masked_l1(pred, target, weight)
