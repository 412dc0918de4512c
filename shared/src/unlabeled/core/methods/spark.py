"""SparK: Tian et al. 2023, Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling."""

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
from unlabeled.core.losses.masked import masked_mse, normalised_patches
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.nn.maps import ConvEncoder
from unlabeled.core.nn.masked import upsampled
from unlabeled.core.nn.unet_decoder import UNetDecoder
from unlabeled.core.tokens.patches import grid_of, pad_to_patches, patch_valid, patchify


@dataclass(frozen=True)
class Hidden:
    """A batch with hidden patches: x padded to patches; active (B, *S) what the encoder sees; hidden (B, L) the targets.

    count: of active cells, where the host knows it.
    """

    x: Dense
    active: Tensor
    hidden: Tensor
    weight: Tensor
    count: int | None = None


class SparK(Method):
    """Hide most patches of the coarsest grid, encode the rest by masked convolution, predict the hidden patches.

    The encoder's maps of the coarsest resolutions are densified and joined by a U-Net. Raises RequestError where the
    encoder has no feature maps.

    Deviations: the mask is handed to the net for one pass and is no global variable; batch norms take weighted
    moments over the active sites of all ranks, without looking at the device; nets of one to three axes; the
    paper's LAMB is AdamW here.
    """

    couples = "batch norms take their moments over all items of the batch"

    class Options(base.Options):
        mask_ratio: float = Field(0.6, gt=0, lt=1, description="share of the valid patches that is hidden")
        resolutions: int = Field(4, ge=1, description="how many of the encoder's resolutions the decoder reads at most")
        norm_target: bool = Field(True, description="predict patches normalised by their own mean and deviation")
        decoder: UNetDecoder.Options = Field(UNetDecoder.Options(), description="thrown away afterwards")

    encoder: ConvEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = conv_encoder(encoder, "spark", "mae")
        super().__init__(encoder, specs, options, views)
        # of several maps of one resolution the last one
        read = dict(zip(encoder.strides, encoder.channels, strict=True))
        self.strides = list(read)[-options.resolutions :]
        width = specs[encoder.input].width
        self.decoder = UNetDecoder([read[s] for s in self.strides], self.strides, width, options.decoder)

    def on_batch(self, batch: Batch, ctx: Context) -> Hidden:
        batch = self.views(batch, ctx.draw(batch, "view"))
        x, valid, grid = coarse(self.encoder, batch)
        noise = ctx.draw(batch, "mask").uniform(self.encoder.input, *grid).flatten(1)
        seen = visible(valid, self.options.mask_ratio, noise)
        active = upsampled(seen.reshape(-1, *grid), x.values.shape[2:])
        count = None
        if x.whole:  # and so has no item of weight 0
            n, cells = math.prod(grid), math.prod(self.encoder.stride)
            count = batch.size * min(max(round(n * (1 - self.options.mask_ratio)), 1), max(n - 1, 1)) * cells
        return Hidden(x, active, valid & ~seen, batch.weight, count)

    def step(self, batch: Hidden, ctx: Context) -> dict[str, Any]:
        x, patch = batch.x, self.encoder.stride
        seen = replace(x, valid=x.valid & batch.active.unsqueeze(1), whole=False)
        maps = self.encoder.maps({self.encoder.input: seen}, batch.count)
        by_stride = {m.stride: m for m in maps}
        # a batch that is whole has no item of weight 0
        there = None if x.whole else x.valid.any(1) & (batch.weight > 0).reshape(-1, *[1] * x.rank)
        pred = self.decoder([by_stride[s] for s in self.strides], there)
        elements, _ = patch_valid(x.valid, patch, x.values.shape[1])
        target = patchify(x.values, patch)
        target = normalised_patches(target, elements) if self.options.norm_target else target
        weight = elements * (batch.hidden * batch.weight[:, None])[..., None]
        return weighted(
            {"mse": (1.0, masked_mse(patchify(pred, patch), target, weight))}, self.encoder.features(maps[-1]).pooled
        )


def conv_encoder(encoder: nn.Module, method: str, other: str) -> ConvEncoder:
    """`encoder` itself. Raises RequestError where it has no feature maps; `other` is a method for such encoders."""
    if not isinstance(encoder, ConvEncoder):
        raise RequestError(
            f"method {method}: needs a convolutional encoder, got {type(encoder).__name__}; "
            f"set encoder.name to convnet or timm, or method.name to {other}"
        )
    return encoder


def coarse(encoder: ConvEncoder, batch: Batch) -> tuple[Dense, Tensor, tuple[int, ...]]:
    """The encoder's input padded to whole patches of its coarsest grid, which patches count (B, L), and the grid."""
    x = batch.inputs[encoder.input]
    assert isinstance(x, Dense)
    x = pad_to_patches(x, encoder.stride)
    _, valid = patch_valid(x.valid, encoder.stride, x.values.shape[1])
    return x, valid & (batch.weight > 0)[:, None], grid_of(x.values.shape[2:], encoder.stride)


def visible(valid: Tensor, ratio: float, noise: Tensor) -> Tensor:
    """Which patches (B, L) are seen: of n valid ones the round(n * (1 - ratio)) with the lowest noise, but at least one.

    One is hidden at least where n > 1.
    """
    n = valid.sum(1, keepdim=True)
    keep = (n.to(torch.float64) * (1 - ratio)).round().long().clamp_min(1).minimum((n - 1).clamp_min(1))
    order = noise.masked_fill(~valid, torch.inf).argsort(dim=1, stable=True)
    return valid & (order.argsort(dim=1) < keep)
