"""Which of an item's hidden patches belongs in a hidden place (Trinh et al. 2019, Selfie, section 2). It stands alone for
every method that has to choose between the tokens of one item, as a jigsaw does."""

from __future__ import annotations

import torch
from torch import Tensor

from unlabeled.core.losses.masked import masked_cross_entropy


def matching(query: Tensor, patch: Tensor, valid: Tensor, weight: Tensor) -> Tensor:
    """Global mean of -log softmax over an item's hidden patches of query . patch, at the true one; at least fp32.

    query (B, M, D) of the hidden places and patch (B, M, D) the embeddings of what is in them, valid (B, M) bool: the
    others neither ask nor distract, and are as fillers finite; weight (B,).
    """
    with torch.autocast(query.device.type, enabled=False):
        wide = torch.promote_types(query.dtype, torch.float32)
        logits = (query.to(wide) @ patch.to(wide).mT).masked_fill(~valid[:, None, :], -torch.inf)
        own = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape[:2])
        return masked_cross_entropy(logits, own, valid * weight[:, None])
