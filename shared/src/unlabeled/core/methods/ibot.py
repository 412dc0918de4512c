"""iBOT: Zhou et al. 2022, iBOT: Image BERT Pre-Training with Online Tokenizer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.distillation import assignments, dino
from unlabeled.core.losses.patches import hidden_assignments
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.dino import DINO, Head, prototype_use, sums
from unlabeled.core.methods.hiding import Hidden, Hiding, hidden
from unlabeled.core.methods.masking import token_encoder
from unlabeled.core.methods.views import crops, encoded
from unlabeled.core.nn.base import Features
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.targets.teacher import Teacher


@dataclass(frozen=True)
class Crops:
    """Two large crops of every item, one behind the other as 2 B rows, and small ones."""

    large: Hidden
    small: list[Batch]


class IBOT(DINO):
    """DINO whose student does not see some patches of the large crops, and shall assign them as the teacher does, who does.

    From section 3: a learned token stands for the hidden patches; the teacher sees the crop whole and is the tokenizer; a
    patch is assigned by its features in the same crop (eq. 2), an item by those of the other crops (eq. 3); item and patches
    share the head. A crop hides nothing half of the time, and else between 0.1 and 0.5 of its patches, in blocks. An item's
    features are its class token or what the encoder pools. The teacher's encoder is exported. Raises RequestError where the
    encoder works on no tokens, or the head cannot be shared.

    Deviations: those of DINO. A crop hides exactly its share, one patch at least; the authors' blocks stop below it. Hidden
    patches of the teacher alone go through the head and move the centre of patches, where the authors' centre is that of
    all patches; the centre is the mean over patches and not over items. One temperature for item and patches, as in the
    paper. Local crops hide nothing, as in the authors' code.
    """

    class Options(DINO.Options, Hiding):
        prototypes: int = Field(4096, ge=2, description="outputs of a head (paper: 8192)")
        shared_head: bool = Field(
            True, description="whether items and patches have one head, and so the same prototypes"
        )
        item: float = Field(1.0, ge=0, description="weight of the assignments of items")
        patches: float = Field(1.0, ge=0, description="weight of the assignments of hidden patches")

    encoder: TokenEncoder
    patch_center: Tensor

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        name = type(self).__name__.lower()
        encoder = token_encoder(encoder, name)
        if options.shared_head and encoder.width != encoder.token_width:
            raise RequestError(
                f"method {name}: an item's {encoder.width} features and a patch's {encoder.token_width} cannot share a "
                "head; set method.shared_head: false, or encoder.pool: mean"
            )
        super().__init__(encoder, specs, options, views)
        self.mask_token = nn.Parameter(torch.randn(encoder.token_width) * 0.02)
        if not options.shared_head:
            self.patch_head = Head(encoder.token_width, options.projector, options.prototypes)
            self.teacher = Teacher(options.teacher, **self._student())
        self.register_buffer("patch_center", torch.zeros(options.prototypes))
        # by centre, what the teacher put out since the last optimiser step, which may see its batch in parts
        self._put_out: defaultdict[str, list[Tensor]] = defaultdict(list)

    def on_batch(self, batch: Batch, ctx: Context) -> Any:
        large, small = crops(self, batch, ctx, 2, self.options.local_crops)
        return Crops(hidden(self.options, self.encoder, large, ctx), small)

    def step(self, batch: Any, ctx: Context) -> dict[str, Any]:
        seen = batch.large.encode(self.encoder, self.mask_token)
        with torch.no_grad():
            whole = self.teacher["encoder"].encode(batch.large.tokens)
        terms, use = self.terms(batch, seen, whole, ctx)
        gap = self.teacher.gap(**self._student())
        return weighted(terms, seen.pooled.chunk(2)[0], teacher_gap=gap, prototype_use=use)

    def terms(
        self, batch: Crops, seen: Features, whole: Features, ctx: Context
    ) -> tuple[dict[str, tuple[float, Tensor]], Tensor]:
        """The weighted terms by name, and the share of the prototypes in use.

        From what the student saw of the large crops (2 B rows), and what the teacher did.
        """
        o, large, patch_head = self.options, batch.large, "head" if self.options.shared_head else "patch_head"
        with torch.no_grad():
            items = self.targets("center", self.teacher["head"](whole.pooled), large.weight, ctx)
            there = large.there * large.weight[:, None]
            outputs = self.teacher[patch_head](large.take(whole.tokens))
            patches = self.targets("patch_center", outputs.flatten(0, 1), there.flatten(), ctx)
            use = prototype_use(sums([items], large.weight)[:-1])
        pooled = [*seen.pooled.chunk(2), *(features.pooled for features in encoded(self.encoder.summary, batch.small))]
        students = self.head(torch.cat(pooled)).chunk(len(pooled))
        item = dino(students, items.chunk(2), o.student_temperature, large.weight.chunk(2)[0])
        said = self._student()[patch_head](large.take(seen.tokens))
        patch = hidden_assignments(said, patches.view_as(said), o.student_temperature, large.there, large.weight)
        return {"dino": (o.item, item), "patches": (o.patches, patch)}, use

    def targets(self, center: str, outputs: Tensor, weight: Tensor, ctx: Context) -> Tensor:
        """To which prototypes the teacher's outputs (R, K) are assigned, around the centre of this name, which will follow."""
        self._put_out[center].append(sums([outputs], weight))
        return assignments(outputs, self.get_buffer(center), self.temperature(ctx))

    def after_backward(self, ctx: Context) -> None:
        super().after_backward(ctx)
        if ctx.step < self.options.freeze_steps and not self.options.shared_head:
            self.patch_head.prototypes.grad = None

    @torch.no_grad()
    def after_step(self, ctx: Context) -> None:
        for center, parts in self._put_out.items():
            total = torch.stack(parts).sum(0)
            mean = (total[:-1] / total[-1].clamp_min(1)).to(self.center.dtype)
            # a step in which no crop hides anything says nothing of patches
            share = (1 - self.options.center_momentum) * (total[-1] > 0).to(mean.dtype)
            self.get_buffer(center).lerp_(mean, share)
        self._put_out.clear()
        self.teacher.follow(ctx.progress, **self._student())

    def _student(self) -> dict[str, nn.Module]:
        student = super()._student()
        return student if self.options.shared_head else student | {"patch_head": self.patch_head}
