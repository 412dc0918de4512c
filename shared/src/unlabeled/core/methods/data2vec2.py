"""data2vec 2.0: Baevski et al. 2022, Efficient Self-supervised Learning with Contextualized Target Representations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.masked import masked_mse
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.masking import token_encoder
from unlabeled.core.nn.conv_decoder import ConvDecoder
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.streams import Draw, normal
from unlabeled.core.targets.features import contextual, target_std
from unlabeled.core.targets.teacher import Teacher
from unlabeled.core.tokens.masks import Mask, inverse_block_mask
from unlabeled.core.tokens.tokens import Tokens


@dataclass(frozen=True)
class ManyMasks:
    """All tokens of a batch by input, their grid, and M masks of each item, row b * M + m; weight (B,)."""

    tokens: dict[str, Tokens]
    masks: dict[str, Mask]
    weight: Tensor


class Data2Vec2(Method):
    """From few kept blocks, predict what an EMA teacher makes of the whole item: one teacher pass for many masks.

    The target is the mean of what the MLPs of the teacher's last `top` blocks add, each instance-normed, then
    layer-normed (section 3.1). The student sees the kept tokens only; a convolutional decoder gets their features in
    their places, and noise of deviation 0.01 in the others. The loss is the mean over inputs of |prediction - target|^2
    / sqrt(D) per hidden token (the authors' scale), and over masks.

    The noise is one draw for all items of a step: it is there to say nothing. The authors' small loss on a class token
    is left out. Their momentum rises from 0.9998 to 0.99999 in 10^5 steps for images, from 0.999 for speech, which is the
    default here since runs are shorter. The bundle carries the trained encoder, as the paper evaluates it.

    Raises RequestError where the encoder works on no tokens or has fewer blocks than `top`, or an input has no grid.

    Deviations: no loss on a class token; the filling noise is shared by the items of a step; two prenet blocks are
    not kept apart from the ten others; the guard against collapse is the health check of every run, not an abort of
    this method.
    """

    class Options(base.Options):
        masks: int = Field(8, ge=1, description="masks of every item, which share the teacher's pass; 16 in the paper")
        mask_ratio: float = Field(0.8, gt=0, lt=1, description="share of the valid tokens that is hidden")
        mask_adjust: float = Field(0.07, ge=0, description="how much more the kept blocks cover, since they overlap")
        mask_length: int = Field(3, ge=1, description="tokens of a kept block along each axis, odd")
        top: int | None = Field(None, ge=1, description="blocks of the teacher, counted from the end; none: all")
        decoder: ConvDecoder.Options = Field(ConvDecoder.Options(), description="the decoder, thrown away afterwards")
        teacher: Teacher.Options = Field(
            Teacher.Options(momentum=0.999, final_momentum=0.99999, schedule="linear"), description="the EMA teacher"
        )

        @model_validator(mode="after")
        def _fits(self) -> Self:
            if self.mask_length % 2 == 0:
                raise ValueError("mask_length must be odd, so that a block has a middle")
            return self

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, "data2vec2")
        for name, spec in encoder.specs.items():
            if spec.layout != "dense":
                raise RequestError(
                    f"method data2vec2: the input {name!r} has no grid to convolve over; use ijepa or mae"
                )
        depth = len(encoder.transformer.blocks)
        if depth < (options.top or 1):
            raise RequestError(
                f"method.top is {options.top or 1} but the encoder has {depth} blocks; set encoder.depth"
            )
        super().__init__(encoder, specs, options, views)
        width = encoder.token_width
        self.decoders = nn.ModuleDict(
            {name: ConvDecoder(width, width, spec.rank, options.decoder) for name, spec in encoder.specs.items()}
        )
        self.teacher = Teacher(options.teacher, encoder=encoder)

    def on_batch(self, batch: Batch, ctx: Context) -> ManyMasks:
        batch = self.views(batch, ctx.draw(batch, "view"))
        tokens = self.encoder.tokenise(batch.inputs)
        draw = ctx.draw(batch, "mask")
        return ManyMasks(tokens, {n: self._masks(n, t, draw) for n, t in tokens.items()}, batch.weight)

    def _masks(self, name: str, tokens: Tokens, draw: Draw) -> Mask:
        o = self.options
        noise = draw.uniform(name, o.masks, 2, *tokens.places).flatten(0, 1).flatten(2)
        valid = tokens.valid.repeat_interleave(o.masks, 0)
        mask = inverse_block_mask(valid, o.mask_ratio, noise, tokens.grid, o.mask_length, o.mask_adjust)
        return replace(mask, whole=tokens.whole)

    def step(self, batch: ManyMasks, ctx: Context) -> dict[str, Any]:
        with torch.no_grad():
            whole = self.teacher["encoder"].encode(batch.tokens, layers=True)
            target = contextual(whole.layers[-(self.options.top or 0) :], None if whole.whole else whole.valid)
        features = self.encoder.encode({n: self._kept(t, batch.masks[n]) for n, t in batch.tokens.items()})
        seen = torch.split(features.tokens, [m.keep.shape[1] for m in batch.masks.values()], 1)
        wanted = torch.split(target, [t.valid.shape[1] for t in batch.tokens.values()], 1)
        losses = {
            f"mse_{n}": (1 / len(seen), self._loss(n, s, w, batch, ctx))
            for n, s, w in zip(batch.tokens, seen, wanted, strict=True)
        }
        return weighted(
            losses,
            whole.pooled,
            target_std=target_std(target, whole.valid * batch.weight[:, None]),
            teacher_gap=self.teacher.gap(encoder=self.encoder),
        )

    def _kept(self, tokens: Tokens, mask: Mask) -> Tokens:
        """The kept tokens, one row for every mask."""
        rows, k = len(tokens.valid), mask.keep.shape[1]
        there = None if mask.whole else mask.keep_valid.reshape(rows, -1)
        taken = tokens.take(mask.keep.reshape(rows, -1), there)
        return taken._each(lambda t: t.reshape(-1, k, *t.shape[2:]))

    def _loss(self, name: str, seen: Tensor, target: Tensor, batch: ManyMasks, ctx: Context) -> Tensor:
        mask, m = batch.masks[name], self.options.masks
        rows, length, width = target.shape
        tokens = batch.tokens[name]
        valid, grid = tokens.valid.repeat_interleave(m, 0), tokens.grid
        x = self._in_places(seen, mask, ctx.shared(f"fill/{name}"), grid)
        pred = self.decoders[name](x, None if tokens.whole else valid, grid).reshape(rows, m, length, width)
        hidden = torch.zeros_like(valid).scatter(1, mask.hide, mask.hide_valid).reshape(rows, m, length, 1)
        weight = hidden * batch.weight[:, None, None, None]
        return math.sqrt(width) * masked_mse(pred, target[:, None], weight)

    def _in_places(self, seen: Tensor, mask: Mask, stream: int, grid: tuple[int, ...]) -> Tensor:
        """Features (B * M, K, D) of kept tokens in their places of the grid, and noise, shared by all items, elsewhere."""
        m, width = self.options.masks, seen.shape[-1]
        noise = 0.01 * normal(stream, torch.arange(m, device=seen.device), (*grid, width)).reshape(m, -1, width)
        filled = noise.to(seen.dtype).repeat(len(seen) // m, 1, 1)
        at = mask.keep[..., None].expand_as(seen)
        if mask.whole:
            return filled.scatter(1, at, seen)
        return filled.scatter(1, at, torch.where(mask.keep_valid[..., None], seen, filled.gather(1, at)))

    def after_step(self, ctx: Context) -> None:
        self.teacher.follow(ctx.progress, encoder=self.encoder)
