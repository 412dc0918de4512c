"""How much of a codebook is in use: vital signs against its collapse."""

from __future__ import annotations

import torch
from torch import Tensor

from unlabeled.core import ranks


@torch.no_grad()
def counted(ids: Tensor, weight: Tensor, size: int) -> Tensor:
    """(K,) summed weight of every code over all ranks: ids (...) in [0, size), weight (...)."""
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32)).flatten()
    return ranks.total(weight.new_zeros(size).index_add(0, ids.flatten(), weight))


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of the shares of counts (..., K), in [1, K]: K at uniform use, 1 at collapse, and with no count."""
    share = counts / counts.sum(-1, keepdim=True).clamp_min(torch.finfo(counts.dtype).tiny)
    # no `entr`, whose gradient at 0 is infinite
    return (-share * share.clamp_min(torch.finfo(share.dtype).tiny).log()).sum(-1).exp()


def in_use(counts: Tensor) -> Tensor:
    """Share of the codes that were counted at all, of counts (..., K)."""
    return (counts > 0).to(counts.dtype).mean(-1)
