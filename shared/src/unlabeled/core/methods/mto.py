"""MTO: Choi et al. 2024, Emerging Property of Masked Token for Effective Pre-training (ECCV)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.losses.singularity import attention_on, heterogeneity
from unlabeled.core.methods.base import Context, weighted
from unlabeled.core.methods.simmim import Corrupted, SimMIM
from unlabeled.core.nn.transformer import Block, Turn


class MTO(SimMIM):
    """SimMIM whose mask tokens stand out: visible tokens learn to pass them by, and they start out like no visible token.

    From the abstract and the authors' page: mask tokens that mean nothing yet are to be left out of what visible tokens
    aggregate, by a constraint that makes weights sparse; mask tokens are to be singular (heterogeneous, by an entropy)
    at the first embedding, and less so in every deeper layer, as they are restored. The paper names three losses for it.

    Deviations: the paper's equations and code could not be read, so all three terms are decided here. Exclusion: the
    share of their attention that visible tokens give to hidden ones, mean over blocks. Singularity: 1 - the entropy of a
    hidden token's attention among the visible tokens in the first block, over its largest value. Descent: how much this
    entropy rises from a block to the next one, 0 where it falls. Their weights are ours too. Attention is computed a
    second time for them, since the fused one gives no weights.
    """

    class Options(SimMIM.Options):
        exclusion: float = Field(
            0.1, ge=0, description="weight of the attention that visible tokens pay to hidden ones"
        )
        singularity: float = Field(
            0.1, ge=0, description="weight of what hidden tokens have in common with visible ones"
        )
        descent: float = Field(0.1, ge=0, description="weight of the rise of their singularity from block to block")

    def step(self, batch: Corrupted, ctx: Context) -> dict[str, Any]:
        o, rows = self.options, batch.weight
        if not (o.exclusion or o.singularity or o.descent):
            return super().step(batch, ctx)
        tokens, masks = batch.tokens, batch.masks
        valid = torch.cat([t.valid for t in tokens.values()], 1)
        hide = [torch.zeros_like(t.valid).scatter(1, masks[n].hide, masks[n].hide_valid) for n, t in tokens.items()]
        hidden = torch.cat(hide, 1)
        visible = valid & ~hidden
        shares: list[Tensor] = []
        apart: list[Tensor] = []

        def watch(block: Block, x: Tensor, attend: Tensor | None, turn: Turn | None) -> None:
            own = x.shape[1] - valid.shape[1]  # a class token is neither visible nor hidden
            seen, unseen = F.pad(visible, (own, 0)), F.pad(hidden, (own, 0))
            attention = block.attention(block.norm1(x), attend, turn)
            shares.append(attention_on(attention, seen, unseen, rows))
            apart.append(heterogeneity(attention, seen)[:, own:])

        terms, features = self._terms(batch, watch)
        counted = (hidden & (visible.sum(1, keepdim=True) > 1)) * rows[:, None]
        if shares:
            terms["exclusion"] = (o.exclusion, torch.stack(shares).mean())
            terms["singularity"] = (o.singularity, ranks.mean(1 - apart[0], counted))
        if len(apart) > 1:
            terms["descent"] = (o.descent, ranks.mean(torch.stack(apart).diff(dim=0).relu(), counted))
        return weighted(terms, features.pooled)
