"""MR-MAE: Gao et al. 2023, Mimic before Reconstruct: Enhancing Masked Autoencoders with Feature Mimicking."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.losses.masked import masked_mse
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.mae import MAE, Masked
from unlabeled.core.methods.taught import Learning, drawn_seed, linear_heads, needed, token_teacher
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.targets.features import layer_normed


class MRMAE(MAE):
    """MAE whose visible tokens mimic a frozen teacher, while its decoder reconstructs the hidden patches.

    The teacher encodes the whole item; at the visible places a linear layer on the encoder's output predicts the
    teacher's output, layer-normed, and the loss is the mean over inputs of their squared distance, beside MAE's own. So the
    two targets, high-level and low-level, never meet at one token.

    Deviations: from the abstract; no code of the authors was found. Decided here: one linear layer, the
    teacher's output is layer-normed (so that the weight means the same for every teacher), and both losses weigh 1. Left
    out are their masked convolution stages, since the encoder is any token encoder. The teachers are whatever weights are
    named, and not CLIP and DINO.
    """

    class Options(MAE.Options, Learning):
        weight: float = Field(1.0, gt=0, description="of the mimicry, beside the reconstruction")

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        self.teacher: TokenEncoder | None = None
        self._seed = drawn_seed()

    def take_teacher(self, encoder: Encoder) -> None:
        """Take `encoder` as the teacher and freeze it. Raises Incompatible where its tokens are not the student's."""
        self.teacher = token_teacher(encoder, self.encoder)
        (self.mimic,) = linear_heads(1, self.encoder.token_width, encoder.token_width, self._seed)

    def step(self, batch: Masked, ctx: Context) -> dict[str, Any]:
        teacher = needed(self.teacher, "mrmae")
        terms, features = self._terms(batch)
        with torch.no_grad():
            whole = teacher.encode({n: t.followed_by(batch.hidden[n]) for n, t in batch.visible.items()})
            target = layer_normed(whole.tokens)
        seen = [t.valid.shape[1] for t in batch.visible.values()]
        hidden = [t.valid.shape[1] for t in batch.hidden.values()]
        pred = torch.split(self.mimic(features.tokens), seen, 1)
        # of every input the visible tokens come first
        wanted = torch.split(target, [n for pair in zip(seen, hidden, strict=True) for n in pair], 1)[::2]
        share = self.options.weight / len(seen)
        for (n, t), p, w in zip(batch.visible.items(), pred, wanted, strict=True):
            terms[f"mimic_{n}"] = (share, masked_mse(p, w, (t.valid * batch.weight[:, None])[..., None]))
        return weighted(terms, features.pooled)
