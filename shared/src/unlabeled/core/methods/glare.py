"""GLARE: Ebouky et al. 2025, Enhancing Semantic Segmentation with Continual Self-Supervised Pre-training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.distillation import assignments, dino, regression
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.dino import DINO, prototype_use, sums
from unlabeled.core.methods.masking import token_encoder
from unlabeled.core.methods.views import crops, encoded
from unlabeled.core.nn.adapter import adapters, with_adapters
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.pooling import share_pool
from unlabeled.core.streams import Draw
from unlabeled.core.targets.teacher import Teacher
from unlabeled.core.tokens.around import around, picked
from unlabeled.core.tokens.blur import blurred
from unlabeled.core.tokens.tokens import Tokens


@dataclass(frozen=True)
class Looks:
    """Two views of every item, one behind the other as 2 B rows, and small crops.

    tokens  by input, as the teacher sees them; worse: as the student does, with the chosen (2 B, L) patches changed
    lots    (B, L) uniform numbers that pick regions; weight (B,)
    """

    tokens: dict[str, Tokens]
    worse: dict[str, Tokens]
    chosen: Tensor
    lots: Tensor
    small: list[Batch]
    weight: Tensor


class GLARE(DINO):
    """Further pretraining of adapters alone: item, patches and regions of a view agree with a slow copy of the adapters.

    The encoder begins from given weights (the recipe's `start`) and all of it is frozen but the adapters beside its MLPs
    (`encoder.adapter`), which are zero at first, so that it begins as the given one. Three terms: global, DINO's assignment
    of an item's pooled features, between the views; local, the cosine of the student's features of patches that were
    blurred and noisy with the teacher's, who sees them well; regional, the cosine of mean features around patches that the
    teacher attends to, between the views. Both views share the draws of the first `moving` of the recipe's views, so that a
    patch shows the same place in both. Raises RequestError where the encoder has no adapters.

    Deviations: from the abstract, no code was found. Decided here: what the terms are, and equal weights; DINO's head and
    centre for the global term, and its deviations; the views share their crop, where the paper may match two crops; a
    region is a square of patches around one, drawn with chances proportional to the mean attention in both views; a patch
    is blurred towards the mean of each of its channels; adapters as `nn.adapter` says; the trained encoder is exported.
    """

    class Options(DINO.Options):
        moving: int = Field(
            ge=0,
            description="how many of the recipe's views, counted from the first, move cells: both views share them",
        )
        item: float = Field(1.0, ge=0, description="weight of the global term")
        patches: float = Field(1.0, ge=0, description="weight of the local term")
        areas: float = Field(1.0, ge=0, description="weight of the regional term")
        changed: float = Field(0.5, gt=0, le=1, description="how likely a patch is blurred and noisy for the student")
        blur: float = Field(1.0, ge=0, le=1, description="how far its cells go to its mean at most; 1: all the way")
        noise: float = Field(0.1, ge=0, description="deviation of the noise on it")
        regions: int = Field(8, ge=1, description="regions of an item")
        radius: int = Field(1, ge=0, description="patches to each side of a region's centre; 1: 3 x 3 of an image")

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, "glare", pixels=True)
        if not adapters(encoder):
            raise RequestError("method glare: trains adapters only, and the encoder has none; set encoder.adapter: 16")
        if options.moving and not hasattr(views, "first"):
            raise RequestError("method.moving: these views cannot be cut in two; give a recipe's, or set it to 0")
        adapters(encoder.requires_grad_(False)).requires_grad_(True)
        super().__init__(encoder, specs, options, views)
        self.teacher = Teacher(options.teacher, **self._student())
        # no part of this module: all its parameters are the encoder's or the teacher's, and are saved with those
        self._slow = (with_adapters(encoder, self.teacher["adapters"]),)

    @property
    def exported(self) -> nn.Module:
        return self.encoder

    def _student(self) -> dict[str, nn.Module]:
        return {"adapters": adapters(self.encoder), "head": self.head}

    def on_batch(self, batch: Batch, ctx: Context) -> Any:
        o, views, regions = self.options, self._views(batch, ctx), ctx.draw(batch, "regions")
        kinds: dict[str, Any] = {n: type(x) for n, x in views[0].inputs.items()}
        inputs = {n: kind.joined([v.inputs[n] for v in views]) for n, kind in kinds.items()}
        tokens, worse, chosen, lots = self.encoder.tokenise(inputs), {}, [], []
        numbers = torch.cat([2 * batch.index + i for i in range(2)])
        draws = Draw(ctx.seed, ctx.epoch, numbers, "patches")
        for name, t in tokens.items():
            chance = draws.uniform(name, *t.places, 2).flatten(1, -2)
            chosen.append((chance[..., 0] < o.changed) & t.valid)
            noise = o.noise * draws.normal(name, *t.places, t.patches.shape[2]).flatten(1, -2)
            worse[name] = blurred(t, chosen[-1], o.blur * chance[..., 1], noise, self.specs[name].width)
            lots.append(regions.uniform(name, *t.places).flatten(1))
        small = crops(self, batch, ctx, 0, o.local_crops)[1]
        return Looks(tokens, worse, torch.cat(chosen, 1), torch.cat(lots, 1), small, batch.weight)

    def _views(self, batch: Batch, ctx: Context) -> list[Batch]:
        moving, views = self.options.moving, self.views
        if moving:
            chain: Any = views
            batch, views = chain.first(moving)(batch, ctx.draw(batch, "views")), chain.after(moving)
        return [views(batch, ctx.draw(batch, f"view{i + 1}")) for i in range(2)]

    def step(self, batch: Any, ctx: Context) -> dict[str, Any]:
        o, weight = self.options, batch.weight
        seen = self.encoder.encode(batch.worse)
        with torch.no_grad():
            whole = self._slow[0].encode(batch.tokens, attention=True)
            outputs = self.teacher["head"](whole.pooled).chunk(2)
            targets = [assignments(t, self.center, self.temperature(ctx)) for t in outputs]
            self._outputs.append(sums(outputs, weight))
            use = prototype_use(sums(targets, weight)[:-1])
            regions, there = self._regions(batch, whole)
            areas = [share_pool(t, regions) for t in whole.tokens.chunk(2)]
        pooled = [*seen.pooled.chunk(2), *(f.pooled for f in encoded(self.encoder.summary, batch.small))]
        students = self.head(torch.cat(pooled)).chunk(len(pooled))
        own = torch.cat([share_pool(t, regions) for t in seen.tokens.chunk(2)])
        both = weight.repeat(2)[:, None]
        parts = {
            "global": (o.item, dino(students, targets, o.student_temperature, weight)),
            "local": (o.patches, _apart(seen.tokens, whole.tokens, batch.chosen * both)),
            "regional": (o.areas, _apart(own, torch.cat(areas[::-1]), there.repeat(2, 1) * both)),
        }
        gap = self.teacher.gap(**self._student())
        return weighted(parts, pooled[0], teacher_gap=gap, prototype_use=use)

    def _regions(self, batch: Looks, whole: Features) -> tuple[Tensor, Tensor]:
        """Which tokens every region holds, (B, L, R) bool, the same in both views; and which regions (B, R) there are."""
        assert whole.attention is not None
        (valid, other), (one, two) = whole.valid.chunk(2), whole.attention.chunk(2)
        valid = valid & other
        at, there = picked((one + two) / 2, valid, batch.lots, self.options.regions)
        places = [self.encoder.position(n, t.coords.chunk(2)[0]) for n, t in batch.tokens.items()]
        return around(places, at, self.options.radius) & valid[..., None], there


def _apart(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """2 - 2 cos of tokens or regions (B, L, D), mean over those that count, weight (B, L)."""
    return regression(pred.flatten(0, 1), target.flatten(0, 1), weight.flatten())
