"""Brempong et al. 2022, Decoder Denoising Pretraining for Semantic Segmentation."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.losses.masked import masked_mse
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.nn.unet import UNet

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Noisy:
    """x: with noise; noise (B, C, *S) as it was drawn; weight (B,)."""

    x: Dense
    noise: Tensor
    weight: Tensor


class DecoderDenoising(Method):
    """Add noise of one strength to the input and predict the noise at every cell with a U-Net, of which the decoder learns.

    From section 3: x' = sqrt(g) x + sqrt(1 - g) e with e ~ N(0, 1), that is (x + sigma e) / sqrt(1 + sigma^2) with
    g = 1 / (1 + sigma^2), which keeps the variance of x where that is 1; the loss is the mean of (e' - e)^2, the target the
    noise and not the clean input; sigma is 0.22. The encoder is pretrained and frozen (DDeP), or with `frozen: false` the
    whole net learns from its start (DeP). The prediction is one linear layer on the features of a cell; it is thrown away,
    and the decoder stays in the bundle for dense tasks.

    Raises RequestError where the encoder is no U-Net.

    Deviations: the decoder is a light one, that of SparK's U-Net. A frozen encoder stays in evaluation mode, so that its
    norms keep the moments it was pretrained with. Cells without data count in no loss.
    """

    couples = "batch norms take their moments over all items of the batch"

    class Options(base.Options):
        sigma: float = Field(0.22, gt=0, description="deviation of the noise, in units of the normalised input")
        frozen: bool = Field(True, description="only the decoder learns; false: all of the U-Net does")

    encoder: UNet

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        if not isinstance(encoder, UNet):
            raise RequestError(
                f"method decoder_denoising: needs a U-Net, got {type(encoder).__name__}; set encoder.name: unet"
            )
        super().__init__(encoder, specs, options, views)
        self.head = nn.Linear(encoder.token_width, specs[encoder.input].width)
        if options.frozen:
            encoder.encoder.requires_grad_(False)
            if encoder.report is None:
                log.warning(
                    "method decoder_denoising: the frozen encoder has random weights; "
                    "name pretrained ones as start, or set method.frozen: false"
                )
        self.train()

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self.options.frozen:
            self.encoder.encoder.eval()
        return self

    def on_batch(self, batch: Batch, ctx: Context) -> Noisy:
        batch = self.views(batch, ctx.draw(batch, "view"))
        x = batch.inputs[self.encoder.input]
        assert isinstance(x, Dense)
        if not x.whole:
            counts = (batch.weight > 0).reshape(-1, *[1] * (x.rank + 1))
            x = replace(x, values=torch.where(x.valid & counts, x.values, 0), valid=x.valid & counts)
        noise = ctx.draw(batch, "noise").normal(self.encoder.input, *x.values.shape[1:]).to(x.values.dtype)
        sigma = self.options.sigma
        return Noisy(replace(x, values=(x.values + sigma * noise) / (1 + sigma**2) ** 0.5), noise, batch.weight)

    def step(self, batch: Noisy, ctx: Context) -> dict[str, Any]:
        features = self.encoder({self.encoder.input: batch.x})
        target, valid = (t.flatten(2).transpose(1, 2) for t in (batch.noise, batch.x.valid))
        loss = masked_mse(self.head(features.tokens), target, valid * batch.weight[:, None, None])
        return weighted({"mse": (1.0, loss)}, features.pooled)
