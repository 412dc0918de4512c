"""Label augmentation: Lee et al. 2020, Self-supervised Label Augmentation via Input Transformations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unlabeled.core.contracts import Head, RequestError
from unlabeled.core.contracts.batch import BatchInput, Dense
from unlabeled.core.data.items import Items
from unlabeled.core.downstream.model import Model
from unlabeled.core.losses.masked import masked_cross_entropy
from unlabeled.core.nn.base import Encoder
from unlabeled.core.tokens.turns import turned

TURNS = 4


class LabelAugmentation(Model):
    """A classifier of (class, quarter turn) pairs of images: it learns both as one label, and predicts over all turns.

    In training the output is joint (B, 4, K, 4): of the item under each turn, the logits of every class with every
    turn. In evaluation it is aggregated (B, K): for each class the mean over the turns t of the logit of (class, t) of
    the item under turn t (their aggregated inference). An item is turned within its own extent; an oblong one is
    not: it is there once, as it is, and under the other turns its joint logits are NaN.

    Deviations: without the second head of the paper's self-distillation, so that a prediction costs four passes; the mean
    of the joint loss over the turns, as the paper's equation, where an option of the authors' code has the sum.
    """

    def __init__(self, encoder: Encoder, kind: str, outputs: int) -> None:
        super().__init__(encoder, kind, TURNS * outputs)

    def forward(self, inputs: Mapping[str, BatchInput]) -> Tensor:
        (name,) = self.encoder.specs
        x = inputs[name]
        assert isinstance(x, Dense)
        under = [turned(x, torch.full((x.size,), t, device=x.values.device)) for t in range(TURNS)]
        out = super().forward({**inputs, name: Dense.joined([item for item, _ in under])})
        joint = out.view(TURNS, x.size, -1, TURNS).transpose(0, 1)
        there = torch.stack([torch.ones_like(under[0][1]), *[able for _, able in under[1:]]], 1)
        joint = torch.where(there[:, :, None, None], joint, torch.nan)
        return joint if self.training else aggregated(joint)


def aggregated(joint: Tensor) -> Tensor:
    """(B, K) from (B, 4, K, 4): the mean over the turns that are there of the logit of the class with this very turn."""
    return joint.diagonal(dim1=1, dim2=3).nanmean(-1)


def joint_loss(joint: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean cross-entropy of the pairs (class, turn), over the items of weight 1 and their turns: (B, 4, K, 4), (B,), (B,)."""
    turn = torch.arange(TURNS, device=joint.device)
    counts = weight[:, None] * ~joint[..., 0, 0].isnan()
    return masked_cross_entropy(joint.flatten(2), target[:, None] * TURNS + turn, counts)


def check(head: Head, encoder: Encoder, items: Items) -> None:
    """Raises RequestError where an item has no class of its own, or cannot be turned by a quarter."""
    if head.kind != "classification":
        raise RequestError(
            f"label_augmentation: only a classification has one class for an item, and {head.name} is a {head.kind}; leave it out"
        )
    spec, *others = encoder.specs.values()
    if others or spec.layout != "dense" or spec.rank != 2:
        raise RequestError("label_augmentation: it turns images, and these items are not one image each; leave it out")
    shapes = {items.size} if items.size else {tuple(items.corpus.shape(int(r))) for r in items.record}
    oblong = next((s for s in sorted(shapes) if s[0] != s[1]), None)
    if oblong is not None:
        raise RequestError(
            f"label_augmentation: it turns square items, and there are some of {oblong[0]} x {oblong[1]} cells; name a square "
            "window, or leave it out"
        )
