"""CNN-JEPA: Kalapos and Gyires-Toth 2024, CNN-JEPA: Self-Supervised Pretraining Convolutional Neural Networks Using JEPA."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.masked import masked_smooth_l1
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.ijepa import Range, Share
from unlabeled.core.methods.spark import Hidden, coarse, conv_encoder, visible
from unlabeled.core.nn.depthwise import DepthwisePredictor
from unlabeled.core.nn.maps import ConvEncoder
from unlabeled.core.nn.masked import upsampled
from unlabeled.core.streams import Draw
from unlabeled.core.targets.features import target_std, unit
from unlabeled.core.targets.teacher import Teacher
from unlabeled.core.tokens.blocks import multi_block
from unlabeled.core.tokens.patches import grid_coords


class CNNJEPA(Method):
    """From the visible patches of the coarsest grid, seen by masked convolution, predict an EMA teacher's last map.

    The student's maps are SparK's; a predictor of depthwise separable convolutions fills a mask token into hidden sites of
    the last one. The loss is the smooth L1 distance, beta 1, between both maps, each site of them scaled to length 1,
    summed over channels, mean over hidden sites (section III and the authors' code). Masks are the authors' mixture: the
    target blocks of I-JEPA for three quarters, random patches for the rest; what no block covers is seen. The bundle
    carries the teacher, which their code evaluates. Raises RequestError where the encoder has no feature maps.

    Deviations: the kind of mask is drawn for each item, not for each batch, so that no rank needs to ask another. Scale
    and aspect of a block are drawn apart, and blocks reach the last row and column: the authors take over a sampler where
    neither is so. Every item has block sizes of its own. Where the blocks of an item leave nothing to see, its mask is
    random. Sites that are not there are in no loss. The teacher's norms read valid positions only, of all ranks.
    """

    couples = "batch norms take their moments over all items of the batch"

    class Options(base.Options):
        blocks: float = Field(
            0.75, ge=0, le=1, description="share of the items of which blocks are hidden, not patches"
        )
        mask_ratio: float = Field(
            0.6, gt=0, lt=1, description="random masks: share of the valid patches that is hidden"
        )
        targets: int = Field(4, ge=1, description="block masks: how many, which may overlap")
        target_scale: Share = Field((0.15, 0.2), description="block masks: share of the grid that one covers")
        target_aspect: Range = Field((0.75, 1.5), description="its length over its length along the last axis")
        predictor: DepthwisePredictor.Options = Field(
            DepthwisePredictor.Options(), description="the predictor, thrown away afterwards"
        )
        teacher: Teacher.Options = Field(Teacher.Options(), description="the EMA teacher")

    encoder: ConvEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = conv_encoder(encoder, "cnn_jepa", "ijepa")
        super().__init__(encoder, specs, options, views)
        self.predictor = DepthwisePredictor(encoder.channels[-1], len(encoder.stride), options.predictor)
        self.teacher = Teacher(options.teacher, encoder=encoder)

    @property
    def exported(self) -> nn.Module:
        return self.teacher["encoder"]  # type: ignore[no-any-return]

    def on_batch(self, batch: Batch, ctx: Context) -> Hidden:
        batch = self.views(batch, ctx.draw(batch, "view"))
        x, valid, grid = coarse(self.encoder, batch)
        seen = self._seen(valid, grid_coords(grid, self.encoder.stride, x.spacing), grid, ctx.draw(batch, "mask"))
        active = upsampled(seen.reshape(-1, *grid), x.values.shape[2:])
        return Hidden(x, active, valid & ~seen, batch.weight)

    def _seen(self, valid: Tensor, coords: Tensor, grid: tuple[int, ...], draw: Draw) -> Tensor:
        """Which patches (B, L) the student sees."""
        o, name = self.options, self.encoder.input
        noise = draw.uniform(name, *grid).flatten(1)
        boxes = draw.uniform(f"{name}/boxes", o.targets + 1, 2 * len(grid))
        whole = (1.0, 1.0)  # the context is all that no block covers
        cut = multi_block(valid, coords, boxes, noise, o.target_scale, o.target_aspect, whole, context_share=1.0)
        context = torch.zeros_like(valid).scatter(1, cut.context, cut.context_valid)
        in_blocks = (draw.uniform(f"{name}/kind", 1) < o.blocks) & context.any(1, keepdim=True)
        return torch.where(in_blocks, context, visible(valid, o.mask_ratio, noise))

    def step(self, batch: Hidden, ctx: Context) -> dict[str, Any]:
        x, name, teacher = batch.x, self.encoder.input, self.teacher["encoder"]
        # a batch that is whole has no item of weight 0
        counted = x.valid & (batch.weight > 0).reshape(-1, 1, *[1] * x.rank)
        with torch.no_grad():
            whole = teacher.maps({name: x if x.whole else replace(x, valid=counted)})[-1]
            target = unit(teacher.features(whole).tokens)
        seen = replace(x, valid=counted & batch.active.unsqueeze(1), whole=False)
        pred = self.predictor(self.encoder.maps({name: seen})[-1], None if x.whole else whole.valid)
        there = whole.valid.flatten(1)
        weight = (batch.hidden & there) * batch.weight[:, None]
        width = target.shape[-1]  # the sum over channels, where the loss takes their mean
        loss = width * masked_smooth_l1(unit(pred.flatten(2).transpose(1, 2)), target, weight[..., None])
        return weighted(
            {"smooth_l1": (1.0, loss)},
            teacher.features(whole).pooled,
            # as if the channels of a target had variance 1, as the monitor's limit has it
            target_std=target_std(target * math.sqrt(width), there * batch.weight[:, None]),
            teacher_gap=self.teacher.gap(encoder=self.encoder),
        )

    def after_step(self, ctx: Context) -> None:
        self.teacher.follow(ctx.progress, encoder=self.encoder)
