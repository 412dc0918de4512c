"""SAR-JEPA: Li et al. 2024, Predicting Gradient is Better: Self-Supervised Learning for SAR ATR with a JEPA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.losses.masked import masked_mse
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.masking import token_encoder
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.predictor import Predictor
from unlabeled.core.nn.transformer import Transformer, xavier
from unlabeled.core.streams import Draw
from unlabeled.core.targets.ratio_gradient import ratio_gradient
from unlabeled.core.tokens.exchange import on_grid
from unlabeled.core.tokens.patches import dense_tokens
from unlabeled.core.tokens.tokens import Tokens
from unlabeled.core.tokens.windows import Windows, local_windows
from unlabeled.earth.physical import DECIBEL, per_channel, zeros


@dataclass(frozen=True)
class Local:
    """Windows as rows of their own, (B * W, N, ...), by input: tokens, targets and which are hidden; weight (B,)."""

    tokens: dict[str, Tokens]
    targets: dict[str, Tokens]
    hidden: dict[str, Tensor]
    weight: Tensor


class SARJEPA(Method):
    """In local windows, hide most tokens and predict the gradient by ratio of the image there, at several scales.

    Despite its name no teacher: the target is made by hand, of the whole image, so that speckle is not what is learned.
    A learned token takes the place of what is hidden and goes through the encoder (LoMaR, Chen et al. 2022); attention
    never leaves a window. The loss is the mean squared error over hidden, valid elements, mean over inputs.

    Several inputs have windows at equal places where their grids are equal. Raises RequestError for inputs that are no
    images, an encoder without tokens, grids smaller than a window, bands in dB beside others, and a normaliser whose
    constants differ between sources.

    Deviations: every item has windows of its own, all different (in the authors' code the batch shares them, and a
    wrong order gives an item of a batch of 64 one window four times); they are drawn from all places, not one per row and
    column; positions are absolute, from coordinates, where theirs are relative (iRPE); `eps` is a share of the image's
    mean, where theirs is 0.01 of 8-bit amplitudes over 255; decibels are subtracted, which theirs never sees.
    """

    class Options(base.Options):
        windows: int = Field(4, ge=1, description="windows per item")
        window: int = Field(7, ge=2, description="tokens of a window along each axis")
        mask_ratio: float = Field(0.8, gt=0, lt=1, description="share of a window's valid tokens that is hidden")
        radii: tuple[int, ...] = Field(
            (9, 13, 17),
            min_length=1,
            description="scales of the gradient: cells on each side of the middle one (the authors' code adds 5)",
        )
        eps: float = Field(
            0.01, ge=0, description="added before the logarithm, as a share of the image's mean; not to dB"
        )
        decoder: Predictor.Options = Field(Predictor.Options(), description="what follows, thrown away afterwards")

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, "sar_jepa")
        super().__init__(encoder, specs, options, views)
        if any(r < 1 for r in options.radii):
            raise RequestError(f"method.radii is {list(options.radii)}; every radius is 1 or more")
        self.scales = {name: _scales(name, spec) for name, spec in encoder.specs.items()}
        width, o = encoder.token_width, options.decoder
        self.mask_token = nn.Parameter(torch.randn(width) * 0.02)
        self.embed = nn.Linear(width, o.width)
        self.decoder = Transformer(o.width, o.depth, o.heads, o.mlp_ratio)
        widths = {n: len(options.radii) * p for n, p in encoder.patch_widths.items()}
        self.heads = nn.ModuleDict({n: nn.Linear(o.width, p) for n, p in widths.items()})
        for part in (self.embed, self.decoder, self.heads):
            xavier(part)

    def on_batch(self, batch: Batch, ctx: Context) -> Local:
        batch = self.views(batch, ctx.draw(batch, "view"))
        draw = ctx.draw(batch, "mask")
        tokens, targets, hidden = {}, {}, {}
        for name, found in self.encoder.tokenise(batch.inputs).items():
            x = batch.inputs[name]
            assert isinstance(x, Dense)
            whole = self._void(found)
            at = self._windows(name, whole, draw)
            tokens[name] = _rows(whole, at)
            targets[name] = _rows(self._void(dense_tokens(self._gradient(name, x), self.encoder.patch[name])), at)
            hidden[name] = at.hidden.flatten(0, 1)
        return Local(tokens, targets, hidden, batch.weight)

    def _void(self, tokens: Tokens) -> Tokens:
        """A batch of which no item could be read is one invalid token each: as many as a window needs, since the other
        ranks wait for this step."""
        return on_grid(tokens, (self.options.window,) * len(tokens.grid)) if max(tokens.grid) == 1 else tokens

    def _windows(self, name: str, tokens: Tokens, draw: Draw) -> Windows:
        o, grid = self.options, tokens.grid
        if min(grid) < o.window:
            raise RequestError(
                f"method.window is {o.window} tokens and {name!r} has {' x '.join(map(str, grid))}; make it smaller, or "
                "data.window larger"
            )
        places = draw.uniform("places", *(g - o.window + 1 for g in grid))
        noise = draw.uniform(f"{name}/tokens", o.windows, o.window ** len(grid))
        return local_windows(tokens.valid, grid, o.window, o.windows, o.mask_ratio, places, noise)

    def _gradient(self, name: str, x: Dense) -> Dense:
        """The target as an image: bands times scales."""
        log, constants = self.scales[name]
        bands = zip(torch.split(x.values, 1, 1), constants, strict=True)
        values = torch.cat([v * c if log else v + c for v, c in bands], 1)
        target, valid = ratio_gradient(values, x.valid, self.options.radii, log=log, eps=self.options.eps)
        return replace(x, values=target, valid=valid, whole=False)

    def step(self, batch: Local, ctx: Context) -> dict[str, Any]:
        def corrupt(name: str, x: Tensor) -> Tensor:
            return torch.where(batch.hidden[name][..., None], self.mask_token.to(x.dtype), x)

        features = self.encoder.encode(batch.tokens, corrupt)
        decoded = self.decoder(self.embed(features.tokens), features.valid)
        parts = torch.split(decoded, [t.valid.shape[1] for t in batch.tokens.values()], 1)
        weight = batch.weight.repeat_interleave(self.options.windows)
        losses = {}
        for (name, target), z in zip(batch.targets.items(), parts, strict=True):
            counts = target.elements * (batch.hidden[name] * weight[:, None])[..., None]
            losses[f"mse_{name}"] = (1 / len(parts), masked_mse(self.heads[name](z), target.patches, counts))
        seen = features.valid.any(1).view(-1, self.options.windows, 1)
        pooled = features.pooled.reshape(-1, self.options.windows, features.pooled.shape[1])
        return weighted(losses, (pooled * seen).sum(1) / seen.sum(1).clamp_min(1))


def _scales(name: str, spec: InputSpec) -> tuple[bool, list[float]]:
    """Whether values are logarithms; and by channel what to multiply them with for ln(power), or to add to them."""
    if spec.layout != "dense" or spec.rank != 2:
        raise RequestError(
            f"method sar_jepa: the input {name!r} has the axes {', '.join(spec.axes)}; it works on images, with y and x"
        )
    log = DECIBEL in spec.units
    if log and set(spec.units) != {DECIBEL}:
        raise RequestError(
            f"method sar_jepa: {name!r} holds bands in {DECIBEL} and in {', '.join(sorted({*spec.units} - {DECIBEL}))}; "
            "choose bands of one kind under data.options.bands"
        )
    if log:
        return log, per_channel(spec, lambda _, scale: scale * math.log(10) / 10, "method sar_jepa")
    return log, zeros(spec, "method sar_jepa")


def _rows(tokens: Tokens, at: Windows) -> Tokens:
    """The windows of every item as rows: (B * W, N, ...)."""
    taken = tokens.take(at.tokens.flatten(1), at.valid.flatten(1))
    b, w, n = at.tokens.shape

    def rows(t: Tensor) -> Tensor:
        return t.reshape(b * w, n, *t.shape[2:])

    return Tokens(rows(taken.patches), rows(taken.elements), rows(taken.coords), rows(taken.valid))
