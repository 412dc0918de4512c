"""MaskAlign: Xue et al. 2023, Stare at What You See: Masked Image Modeling without Reconstruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import Incompatible, InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.masked import masked_smooth_l1
from unlabeled.core.methods.base import Context, Method, Views, unchanged, weighted
from unlabeled.core.methods.masking import Drawn, drawn, token_encoder
from unlabeled.core.methods.taught import Learning, drawn_seed, linear_heads, needed, token_teacher
from unlabeled.core.nn.base import Encoder, Features
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.targets.features import layer_normed, target_std
from unlabeled.core.tokens.guided import attention_guided
from unlabeled.core.tokens.masks import Mask, Rounding


class MaskAlign(Method):
    """Align the features of visible patches with those a frozen teacher has of them when it sees the whole item.

    No decoder and no hidden tokens at all. Every one of the teacher's last `top` layers is predicted by a linear head from
    a learned mix of all layers of the student; a row of the mixing matrix starts as their mean. The target is the
    teacher's layer, layer-normed without a scale, and the loss is twice the smooth L1 distance, mean over the visible
    tokens, layers and inputs. The visible tokens are drawn by the teacher's attention in its last block: of its class token,
    or, where it has none, the mean over all its tokens.

    Raises RequestError where the encoder works on no tokens or has no blocks.

    Deviations: the mix begins with the mean of the layers, which is one of the two starts of the authors' code; the other
    one, near the identity, asks for a teacher of equal depth. The student's last layer is taken after its final norm,
    which the authors leave out and so never train. Class tokens are not aligned, since an encoder need not have one. The
    draw is one sort of keyed noise for all items.
    """

    class Options(Learning):
        mask_ratio: float = Field(0.7, gt=0, lt=1, description="share of the valid tokens that is hidden")
        mask: Literal["attention", "random"] = Field(
            "attention", description="attention: tokens are kept in proportion to what the teacher attends to"
        )
        rounding: Rounding = Field(
            "keep", description="keep: int(n * (1 - mask_ratio)) stay; mask: int(n * mask_ratio) go"
        )
        top: int | None = Field(
            None, ge=1, description="layers of the teacher, counted from the end; none: all (paper: 5 of 12)"
        )

    encoder: TokenEncoder

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        encoder = token_encoder(encoder, "maskalign")
        if not encoder.transformer.blocks:
            raise RequestError(
                "method maskalign: the encoder has no blocks whose features could be aligned; set encoder.depth"
            )
        super().__init__(encoder, specs, options, views)
        self.teacher: TokenEncoder | None = None
        self._seed = drawn_seed()

    def take_teacher(self, encoder: Encoder) -> None:
        """Take `encoder` as the teacher and freeze it. Raises Incompatible where its tokens are not the student's."""
        self.teacher = token_teacher(encoder, self.encoder)
        depth, own = len(self.teacher.transformer.blocks), len(self.encoder.transformer.blocks)
        if depth < (top := self.options.top or max(1, depth)):
            raise Incompatible(f"method.top is {top} but the teacher has {depth} blocks; set it lower, or leave it out")
        self.mixing = nn.Parameter(torch.full((top, own), 1 / own))
        self.heads = linear_heads(top, self.encoder.token_width, encoder.token_width, self._seed)

    def on_batch(self, batch: Batch, ctx: Context) -> Drawn:
        return drawn(self.encoder, self.views(batch, ctx.draw(batch, "view")), ctx.draw(batch, "mask"))

    def step(self, batch: Drawn, ctx: Context) -> dict[str, Any]:
        teacher = needed(self.teacher, "maskalign")
        with torch.no_grad():
            whole = teacher.encode(batch.tokens, states=True, attention=self.options.mask == "attention")
            target = layer_normed(torch.stack(whole.states[-len(self.heads) :]))
            masks = self._masks(batch, whole)
        features = self.encoder.encode({n: masks[n].visible(t) for n, t in batch.tokens.items()}, states=True)
        pred = torch.split(self._aligned(features), [m.keep.shape[1] for m in masks.values()], 2)
        wanted = torch.split(target, [t.valid.shape[1] for t in batch.tokens.values()], 2)
        terms = {}
        for (n, mask), p, w in zip(masks.items(), pred, wanted, strict=True):
            weight = (mask.keep_valid * batch.weight[:, None])[..., None]
            loss = masked_smooth_l1(p, w.take_along_dim(mask.keep[None, :, :, None], 2), weight)
            terms[f"smooth_l1_{n}"] = (2 / len(masks), loss)
        counts = (whole.valid * batch.weight[:, None]).expand(len(target), -1, -1)
        return weighted(terms, features.pooled, target_std=target_std(target, counts))

    def _masks(self, batch: Drawn, whole: Features) -> dict[str, Mask]:
        o, masks = self.options, {}
        # equal weights are the random mask of this noise
        attended = torch.ones_like(whole.valid, dtype=torch.float32) if whole.attention is None else whole.attention
        parts = torch.split(attended, [t.valid.shape[1] for t in batch.tokens.values()], 1)
        for (n, t), weight in zip(batch.tokens.items(), parts, strict=True):
            mask = attention_guided(t.valid, o.mask_ratio, batch.noise[n], weight, rounding=o.rounding)
            masks[n] = replace(mask, whole=t.whole)
        return masks

    def _aligned(self, features: Features) -> Tensor:
        """The prediction of each of the teacher's layers, (T, B, K, D)."""
        layers = torch.stack([*features.states[:-1], features.tokens])
        mixed = torch.einsum("ts,sbkd->tbkd", self.mixing, layers)
        return torch.stack([head(x) for head, x in zip(self.heads, mixed, strict=True)])
