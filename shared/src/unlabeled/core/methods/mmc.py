"""MMC: Wu et al. 2023, Masked Momentum Contrastive Learning for Zero-shot Semantic Understanding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.contrastive import info_nce
from unlabeled.core.losses.patches import patch_contrast
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.hiding import Hidden, Hiding, hidden
from unlabeled.core.methods.ijepa import Share
from unlabeled.core.methods.masking import token_encoder
from unlabeled.core.methods.views import crops
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.heads import Projector
from unlabeled.core.targets.teacher import Teacher


@dataclass(frozen=True)
class Both:
    """Two views of every item, one behind the other as 2 B rows; record (B,)."""

    views: Hidden
    record: Tensor


class MMC(Method):
    """From what is left of two views, agree with an EMA teacher, who sees them whole, on the item and on hidden patches.

    The item's features shall find the teacher's of the other view among those of all items, and a hidden patch the teacher's
    of the same place in the same view among those of all hidden patches, those of its own item too: InfoNCE for both. A
    learned token stands for the hidden patches. The trained encoder is exported. Raises RequestError where the encoder works
    on no tokens.

    Deviations: from the abstract alone, which names masked image modelling for local features, momentum self-distillation
    from global to local ones, and a contrast of global ones; no code is known. Decided here: the masked modelling and the
    distillation are one term, a contrast with the teacher's features in place of pixels; heads, weights, temperature and
    masks; a few hidden patches of an item are contrasted, drawn at random, so that the cost does not grow with its size;
    items of one record are no negatives of each other unless `same_record_negatives` says so.
    """

    couples = "every item of the batch is a negative of the others, and the batch norms of its heads see all"

    class Options(Hiding):
        mask_share: float = Field(1.0, gt=0, le=1, description="how often a view hides tokens from the student")
        mask_ratio: Share = Field(
            (0.3, 0.6), description="from which range the share of its valid tokens that it then hides is drawn"
        )
        temperature: float = Field(0.2, gt=0, description="divides the cosines")
        contrasted: int = Field(8, ge=1, description="hidden patches of a view that are contrasted, at most")
        item: float = Field(1.0, ge=0, description="weight of the contrast of items")
        patches: float = Field(1.0, ge=0, description="weight of the contrast of hidden patches")
        projector: tuple[int, ...] = Field((256, 128), min_length=1, description="widths of each projector's layers")
        same_record_negatives: bool = Field(False, description="whether items of one record repel each other")
        teacher: Teacher.Options = Field(Teacher.Options(), description="the slow copy")

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, "mmc")
        super().__init__(encoder, specs, options, views)
        self.mask_token = nn.Parameter(torch.randn(encoder.token_width) * 0.02)
        self.projector = Projector(encoder.width, options.projector)
        self.patch_projector = Projector(encoder.token_width, options.projector)
        self.teacher = Teacher(options.teacher, **self._student())

    def on_batch(self, batch: Batch, ctx: Context) -> Both:
        views, _ = crops(self, batch, ctx, 2, 0)
        return Both(hidden(self.options, self.encoder, views, ctx), batch.record)

    def step(self, batch: Both, ctx: Context) -> dict[str, Any]:
        o, views = self.options, batch.views
        some, weight = views.some(o.contrasted), views.weight.chunk(2)[0]
        record = None if o.same_record_negatives else batch.record
        seen = views.encode(self.encoder, self.mask_token)
        items, patches = self.projected(self._student(), seen, some)
        with torch.no_grad():
            whole = self.teacher["encoder"].encode(views.tokens)
            item_targets, patch_targets = self.projected(self.teacher, whole, some)
        item = [
            info_nce(z, target, o.temperature, weight, record)
            for z, target in zip(items, reversed(item_targets), strict=True)
        ]
        patch = [
            patch_contrast(z, target, o.temperature, there, weight, record)
            for z, target, there in zip(patches, patch_targets, some.there.chunk(2), strict=True)
        ]
        return weighted(
            {"item": (o.item, (item[0] + item[1]) / 2), "patches": (o.patches, (patch[0] + patch[1]) / 2)},
            seen.pooled.chunk(2)[0],
            teacher_gap=self.teacher.gap(**self._student()),
        )

    def projected(
        self, parts: Teacher | Mapping[str, nn.Module], features: Features, some: Hidden
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Of both views, the items (B, D) and the patches (B, M, D) that are contrasted, by these projectors."""
        tokens, there = some.take(features.tokens), some.there * some.weight[:, None]
        patches = parts["patch_projector"](tokens.flatten(0, 1), there.flatten())
        items = parts["projector"](features.pooled, some.weight)
        return items.chunk(2), patches.view(*tokens.shape[:2], -1).chunk(2)

    def after_step(self, ctx: Context) -> None:
        self.teacher.follow(ctx.progress, **self._student())

    def _student(self) -> dict[str, nn.Module]:
        return {"encoder": self.encoder, "projector": self.projector, "patch_projector": self.patch_projector}
