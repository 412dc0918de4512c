"""MAE: He et al. 2022, Masked Autoencoders Are Scalable Vision Learners."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.masked import masked_mse, normalised_patches
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.predictor import Predictor
from unlabeled.core.tokens.masks import Mask, block_mask, random_mask
from unlabeled.core.tokens.tokens import Tokens


@dataclass(frozen=True)
class Masked:
    """A batch cut in two, by input: tokens the encoder sees and tokens it does not; weight (B,)."""

    visible: dict[str, Tokens]
    hidden: dict[str, Tokens]
    weight: Tensor


class MAE(Method):
    """Hide most patches, encode the rest, predict the raw hidden patches from it.

    Every named input is masked by itself; the loss is the mean over inputs of the masked MSE. Raises RequestError where
    the encoder works on no tokens.
    """

    class Options(base.Options):
        mask_ratio: float = Field(0.75, gt=0, lt=1, description="share of the valid tokens that is hidden")
        mask: Literal["random", "block"] = Field("random", description="block: connected blocks of tokens")
        blocks: int = Field(1, ge=1, description="block masks: number of blocks, which may touch")
        norm_target: bool = Field(True, description="predict patches normalised by their own mean and deviation")
        decoder: Predictor.Options = Field(Predictor.Options(), description="the predictor, thrown away afterwards")

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        if not isinstance(encoder, TokenEncoder):
            raise RequestError(
                f"method mae: needs a token encoder, got {type(encoder).__name__}; set encoder.name: tokens"
            )
        super().__init__(encoder, specs, options, views)
        self.predictor = Predictor(encoder.token_width, encoder.patch_widths, options.decoder)

    def on_batch(self, batch: Batch, ctx: Context) -> Masked:
        batch = self.views(batch, ctx.draw(batch, "view"))
        draw = ctx.draw(batch, "mask")
        tokens = self.encoder.tokenise(batch.inputs)
        masks = {n: self._mask(n, t, draw.uniform(n, t.valid.shape[1])) for n, t in tokens.items()}
        return Masked(
            visible={n: t.take(masks[n].keep, masks[n].keep_valid) for n, t in tokens.items()},
            hidden={n: t.take(masks[n].hide, masks[n].hide_valid) for n, t in tokens.items()},
            weight=batch.weight,
        )

    def _mask(self, name: str, tokens: Tokens, noise: Tensor) -> Mask:
        ratio = self.options.mask_ratio
        if self.options.mask == "random":
            return random_mask(tokens.valid, ratio, noise)
        return block_mask(tokens.valid, ratio, noise, self.encoder.position(name, tokens.coords), self.options.blocks)

    def step(self, batch: Masked, ctx: Context) -> dict[str, Any]:
        position = self.encoder.position
        features = self.encoder.encode(batch.visible)
        pred = self.predictor(
            features,
            {n: position(n, t.coords) for n, t in batch.visible.items()},
            {n: (position(n, t.coords), t.valid) for n, t in batch.hidden.items()},
        )
        return weighted(
            {f"mse_{n}": (1 / len(pred), self._loss(pred[n], t, batch.weight)) for n, t in batch.hidden.items()},
            features.pooled,
        )

    def _loss(self, pred: Tensor, hidden: Tokens, weight: Tensor) -> Tensor:
        target = normalised_patches(hidden.patches, hidden.elements) if self.options.norm_target else hidden.patches
        return masked_mse(pred, target, hidden.elements * weight[:, None, None])
