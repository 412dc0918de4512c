"""I-JEPA: Assran et al. 2023, Self-Supervised Learning from Images with a Joint-Embedding Predictive Architecture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.masked import masked_smooth_l1
from unlabeled.core.methods import base
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.masking import token_encoder
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.predictor import Predictor
from unlabeled.core.streams import Draw
from unlabeled.core.targets.features import layer_normed, target_std
from unlabeled.core.targets.teacher import Teacher
from unlabeled.core.tokens.blocks import Blocks, multi_block
from unlabeled.core.tokens.tokens import Tokens


def _rising(pair: tuple[float, float]) -> tuple[float, float]:
    if not 0 < pair[0] <= pair[1]:
        raise ValueError(f"needs two numbers above 0, the smaller one first, got {list(pair)}")
    return pair


def _share(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[1] > 1:
        raise ValueError(f"is a share and ends at 1 or below, got {list(pair)}")
    return pair


Range = Annotated[tuple[float, float], AfterValidator(_rising)]
Share = Annotated[Range, AfterValidator(_share)]


@dataclass(frozen=True)
class Blocked:
    """All tokens of a batch and its blocks, by input; weight (B,)."""

    tokens: dict[str, Tokens]
    blocks: dict[str, Blocks]
    weight: Tensor


class IJEPA(Method):
    """From the features of a context block, predict the features an EMA teacher gives to other blocks of the whole item.

    Every named input has blocks of its own; the n-th blocks of all inputs are predicted together. The target is the
    teacher's output, layer-normed without a scale. The loss is the mean over inputs of the smooth L1 distance, beta 1:
    so the authors' code; the paper writes the squared L2 distance, which is twice as much below a distance of 1.
    It is taken over all tokens of all blocks, so that an item with larger blocks counts for more; the authors cut the
    blocks of a batch to the size of the smallest.
    The paper shows no views (no flips, no colours) to this method; a recipe's views come before teacher and student
    alike. The bundle carries the teacher, as the paper evaluates it. Raises RequestError where the encoder works on no
    tokens.

    Deviations: a block's scale and aspect are two draws, not one; blocks reach the last row and column; a context
    that is too large is thinned at random and not from the top; the loss is the authors' smooth L1, not the paper's
    L2; the predictor is narrower by default (paper: 12 blocks of 384).
    """

    class Options(base.Options):
        targets: int = Field(4, ge=1, description="target blocks")
        target_scale: Share = Field((0.15, 0.2), description="share of the grid that a target block covers")
        target_aspect: Range = Field((0.75, 1.5), description="its length over its length along the last axis")
        context_scale: Share = Field(
            (0.85, 1.0), description="share of the grid of the context, before targets leave it"
        )
        context_share: float = Field(
            0.5,
            gt=0,
            le=1,
            description="most tokens of a context, as a share of the valid ones; a larger one is thinned at random",
        )
        predictor: Predictor.Options = Field(
            Predictor.Options(width=96, depth=4, heads=4), description="the predictor, thrown away afterwards"
        )
        teacher: Teacher.Options = Field(
            Teacher.Options(momentum=0.996, final_momentum=1.0, schedule="linear"), description="the EMA teacher"
        )

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, "ijepa")
        super().__init__(encoder, specs, options, views)
        width = encoder.token_width
        self.predictor = Predictor(width, dict.fromkeys(encoder.specs, width), options.predictor)
        self.teacher = Teacher(options.teacher, encoder=encoder)

    @property
    def exported(self) -> nn.Module:
        return self.teacher["encoder"]  # type: ignore[no-any-return]

    def on_batch(self, batch: Batch, ctx: Context) -> Blocked:
        batch = self.views(batch, ctx.draw(batch, "view"))
        tokens = self.encoder.tokenise(batch.inputs)
        draw = ctx.draw(batch, "mask")
        return Blocked(tokens, {n: self._blocks(n, t, draw) for n, t in tokens.items()}, batch.weight)

    def _blocks(self, name: str, tokens: Tokens, draw: Draw) -> Blocks:
        o, d = self.options, tokens.coords.shape[-1]
        return multi_block(
            tokens.valid,
            self.encoder.position(name, tokens.coords),
            draw.uniform(f"{name}/boxes", o.targets + 1, 2 * d),
            draw.uniform(f"{name}/tokens", *tokens.places).flatten(1),
            o.target_scale,
            o.target_aspect,
            o.context_scale,
            o.context_share,
        )

    def step(self, batch: Blocked, ctx: Context) -> dict[str, Any]:
        tokens, weight = batch.tokens, batch.weight
        with torch.no_grad():
            whole = self.teacher["encoder"].encode(tokens)
            target = layer_normed(whole.tokens)
        pred = self._predicted(batch)
        wanted = torch.split(target, [t.valid.shape[1] for t in tokens.values()], 1)
        losses = {
            f"smooth_l1_{n}": (1 / len(pred), self._loss(pred[n], w, batch.blocks[n], weight))
            for n, w in zip(tokens, wanted, strict=True)
        }
        return weighted(
            losses,
            whole.pooled,
            target_std=target_std(target, whole.valid * weight[:, None]),
            teacher_gap=self.teacher.gap(encoder=self.encoder),
        )

    def _predicted(self, batch: Blocked) -> dict[str, Tensor]:
        """Predictions (B * T, S, D) by input: every block is a row, which sees the context and no other block."""
        position, blocks = self.encoder.position, batch.blocks
        context = {n: t.take(blocks[n].context, blocks[n].context_valid) for n, t in batch.tokens.items()}
        features = self.encoder.encode(context)
        hidden = {}
        for name, t in batch.tokens.items():
            at = blocks[name].targets
            coords = t.coords.take_along_dim(at.flatten(1)[..., None], 1)
            places = position(name, coords).reshape(-1, at.shape[2], coords.shape[-1])
            hidden[name] = (places, blocks[name].targets_valid.flatten(0, 1))

        def rows(x: Tensor) -> Tensor:
            return x.repeat_interleave(self.options.targets, 0)

        pred: dict[str, Tensor] = self.predictor(
            Features(rows(features.tokens), rows(features.valid), rows(features.pooled)),
            {name: rows(position(name, t.coords)) for name, t in context.items()},
            hidden,
        )
        return pred

    @staticmethod
    def _loss(pred: Tensor, target: Tensor, blocks: Blocks, weight: Tensor) -> Tensor:
        wanted = target.take_along_dim(blocks.targets.flatten(1)[..., None], 1)
        counts = blocks.targets_valid.flatten(1) * weight[:, None]
        return masked_smooth_l1(pred.reshape(wanted.shape), wanted, counts[..., None])

    def after_step(self, ctx: Context) -> None:
        self.teacher.follow(ctx.progress, encoder=self.encoder)
