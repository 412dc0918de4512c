"""MAE: He et al. 2022, Masked Autoencoders Are Scalable Vision Learners."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.losses.masked import masked_mse, moments, normalised_patches
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.masking import Masking, draw_masks, token_encoder
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.predictor import Predictor
from unlabeled.core.tokens.masks import Mask
from unlabeled.core.tokens.patches import grid_of, unpatchify
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

    Deviations: hidden patches alone go through the decoder's last layer, since only they count (the same
    loss); the decoder is narrower by default (paper: 512 wide, 8 deep), and AdamW, not the paper's
    schedule of 1600 epochs, is the recipe's; normalised targets are the default, as the paper reports, where the
    authors' code has them off.
    """

    class Options(Masking):
        norm_target: bool = Field(True, description="predict patches normalised by their own mean and deviation")
        decoder: Predictor.Options = Field(Predictor.Options(), description="the predictor, thrown away afterwards")

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, type(self).__name__.lower(), pixels=True)
        super().__init__(encoder, specs, options, views)
        self.predictor = self.make_predictor()

    def make_predictor(self) -> Predictor:
        return Predictor(self.encoder.token_width, self.encoder.patch_widths, self.options.decoder)

    def on_batch(self, batch: Batch, ctx: Context) -> Masked:
        return self._cut(*self._masked(self.views(batch, ctx.draw(batch, "view")), ctx), batch.weight)

    def _masked(self, batch: Batch, ctx: Context) -> tuple[dict[str, Tokens], dict[str, Mask]]:
        tokens = self.encoder.tokenise(batch.inputs)
        return tokens, draw_masks(self.options, self.encoder, tokens, ctx.draw(batch, "mask"))

    def _cut(self, tokens: Mapping[str, Tokens], masks: Mapping[str, Mask], weight: Tensor) -> Masked:
        return Masked(
            visible={n: masks[n].visible(t) for n, t in tokens.items()},
            hidden={n: masks[n].hidden(t) for n, t in tokens.items()},
            weight=weight,
        )

    def step(self, batch: Masked, ctx: Context) -> dict[str, Any]:
        terms, features = self._terms(batch)
        return weighted(terms, features.pooled)

    def _terms(self, batch: Masked) -> tuple[dict[str, tuple[float, Tensor]], Features]:
        features, pred = self._predicted(batch)
        share = 1 / len(pred)
        return {f"mse_{n}": (share, self._loss(pred[n], t, batch.weight)) for n, t in batch.hidden.items()}, features

    def _predicted(self, batch: Masked) -> tuple[Features, dict[str, Tensor]]:
        features = self.encoder.encode(batch.visible)
        return features, self.predictor(features, *self._places(batch))

    def _places(self, batch: Masked) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor | None]]]:
        """Of the visible tokens, and of the hidden ones with their validity, as predictors ask for them."""
        position = self.encoder.position
        return (
            {n: position(n, t.coords) for n, t in batch.visible.items()},
            {n: (position(n, t.coords), None if t.whole else t.valid) for n, t in batch.hidden.items()},
        )

    def reconstruct(self, batch: Batch, ctx: Context) -> dict[str, Tensor]:
        """`INPUT.original`, `INPUT.masked` and `INPUT.predicted`, each (B, C, *S), of every dense input; NaN is nothing.

        predicted: what is visible, and in the hidden places the prediction. Where patches are predicted normalised, the
        true patch lends its mean and deviation, as in the figures of He et al. 2022.
        """
        batch = self.views(batch, ctx.draw(batch, "view"))
        tokens, masks = self._masked(batch, ctx)
        return self._drawn(batch, tokens, masks, self._cut(tokens, masks, batch.weight))

    def _drawn(
        self, batch: Batch, tokens: Mapping[str, Tokens], masks: Mapping[str, Mask], cut: Masked
    ) -> dict[str, Tensor]:
        """The pictures of `reconstruct`, of the inputs that are masked."""
        _, pred = self._predicted(cut)
        out = {}
        for name, x in batch.inputs.items():
            if not isinstance(x, Dense) or name not in masks:
                continue
            whole, mask, hidden = tokens[name], masks[name], cut.hidden[name]
            shown = pred[name].float()
            if self.options.norm_target:
                mean, var = moments(hidden.patches, hidden.elements)
                shown = shown * var.sqrt() + mean
            at = mask.hide[..., None].expand_as(shown)
            original = whole.patches.masked_fill(~whole.elements, torch.nan)
            hide = mask.hide_valid[..., None]
            masked = original.scatter(1, at, torch.where(hide, torch.nan, original.gather(1, at)))
            drawn = torch.where(hide & hidden.elements, shown.to(original.dtype), original.gather(1, at))
            for what, patches in (
                ("original", original),
                ("masked", masked),
                ("predicted", original.scatter(1, at, drawn)),
            ):
                out[f"{name}.{what}"] = self._image(patches, x, self.encoder.patch[name])
        return out

    @staticmethod
    def _image(patches: Tensor, x: Dense, patch: Sequence[int]) -> Tensor:
        shape = x.values.shape[2:]
        whole = unpatchify(patches, grid_of(shape, patch), patch)
        for axis, n in enumerate(shape, 2):  # a padded last patch is cut off again
            whole = whole.narrow(axis, 0, n)
        return whole

    def _target(self, hidden: Tokens) -> tuple[Tensor, Tensor | None]:
        """What the hidden tokens (B, M, P) are to give, and which of its elements count; None: all."""
        elements = None if hidden.whole else hidden.elements
        return normalised_patches(hidden.patches, elements) if self.options.norm_target else hidden.patches, elements

    def _loss(self, pred: Tensor, hidden: Tokens, weight: Tensor) -> Tensor:
        target, elements = self._target(hidden)
        rows = weight[:, None, None]
        return masked_mse(pred, target, rows if elements is None else elements * rows)
