"""CAE: Chen et al. 2022, Context Autoencoder for Self-Supervised Representation Learning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.masked import masked_cross_entropy, masked_mse, normalised_patches
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.mae import MAE, Masked
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.predictor import Predictor
from unlabeled.core.nn.regressor import LatentDecoder, Regressor
from unlabeled.core.targets.codebooks.random_projection import RandomProjection
from unlabeled.core.targets.features import target_std
from unlabeled.core.tokens.masks import Rounding
from unlabeled.core.tokens.schemes import Boxes, Scheme
from unlabeled.core.tokens.tokens import Tokens


class CAE(MAE):
    """Encode the visible patches, regress from them what the encoder makes of the hidden ones, and name their codes from
    that.

    Section 3.1: the encoder sees visible patches only; the regressor predicts the latents of the hidden ones; the decoder
    reads codes, or pixels, off the predicted latents alone, so that the encoder is left to represent. Section 3.2: the
    loss is the decoder's plus `align` times the MSE between the predicted latents and those that the encoder gives to the
    hidden patches by themselves, without gradient. The mean is over inputs.

    Raises RequestError where the encoder works on no tokens.

    Deviations: DALL-E's tokenizer cannot be had for other fields, so codes are those of a random projection (Chiu et al.
    2022, BEST-RQ) of the normalised patch, or with `target: pixels` the normalised patch itself is predicted. Visible and
    hidden tokens are told their places once and not in every block; the regressor has one norm for queries, keys and values
    and a plain residual where the authors' code norms it; it ends in a linear layer. The latents to align with are those
    of this step's encoder, the authors' code takes those of the step before. Layer scale and drop path are left out.
    """

    class Options(MAE.Options):
        mask_ratio: float = Field(0.5, gt=0, lt=1, description="share of the valid tokens that is hidden")
        mask: Scheme = Field(Boxes(), description="which tokens are hidden: a name, or a name with its options")
        rounding: Rounding = Field(
            "mask", description="of n tokens, int(n * mask_ratio) are hidden; keep: the others count"
        )
        target: Literal["codes", "pixels"] = Field("codes", description="what the decoder predicts")
        size: int = Field(1024, ge=2, description="codes in the codebook (paper: 8192)")
        smoothing: float = Field(0.0, ge=0, lt=1, description="share of the target that is spread over all codes")
        align: float = Field(2.0, ge=0, description="weight of the distance to the latents of hidden patches")
        regressor: Predictor.Options = Field(
            Predictor.Options(),
            description="the regressor, thrown away afterwards (paper: 4 blocks of the encoder's width)",
        )
        decoder: Predictor.Options = Field(
            Predictor.Options(), description="the decoder, thrown away afterwards (paper: as the regressor)"
        )

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Any, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        width, outputs = self.encoder.token_width, self.encoder.patch_widths
        self.codebooks = nn.ModuleDict()
        if options.target == "codes":
            self.codebooks.update({n: RandomProjection(p, options.size) for n, p in outputs.items()})
            outputs = dict.fromkeys(outputs, options.size)
        self.decoder = LatentDecoder(width, outputs, options.decoder)

    def make_predictor(self) -> Regressor:
        width = self.encoder.token_width
        return Regressor(width, dict.fromkeys(self.encoder.patch_widths, width), self.options.regressor)

    def step(self, batch: Masked, ctx: Context) -> dict[str, Any]:
        features, latents = super()._predicted(batch)
        decoded = self.decoder(latents, self._places(batch)[1])
        counts = {n: t.valid * batch.weight[:, None] for n, t in batch.hidden.items()}
        with torch.no_grad():
            target = self.encoder.encode(batch.hidden).tokens
        aligned = torch.split(target, [t.valid.shape[1] for t in batch.hidden.values()], 1)
        share, terms = 1 / len(decoded), {}
        for (n, hidden), wanted in zip(batch.hidden.items(), aligned, strict=True):
            terms[f"{self.options.target}_{n}"] = (share, self._decoding(n, decoded[n], hidden, batch.weight))
            distance = masked_mse(latents[n], wanted, counts[n][..., None])
            terms[f"align_{n}"] = (share * self.options.align, distance)
        return weighted(terms, features.pooled, target_std=target_std(target, torch.cat([*counts.values()], 1)))

    def _decoding(self, name: str, pred: Tensor, hidden: Tokens, weight: Tensor) -> Tensor:
        if self.options.target == "pixels":
            return self._loss(pred, hidden, weight)
        codebook: Any = self.codebooks[name]
        ids = codebook.codes(normalised_patches(hidden.patches, hidden.elements))
        return masked_cross_entropy(pred, ids, hidden.valid * weight[:, None], self.options.smoothing)

    def _predicted(self, batch: Masked) -> tuple[Features, dict[str, Tensor]]:
        features, latents = super()._predicted(batch)
        return features, self.decoder(latents, self._places(batch)[1])

    def reconstruct(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """As MAE's; nothing where codes are predicted, which are no patches."""
        return super().reconstruct(batch, ctx) if self.options.target == "pixels" else {}
