"""Effective rank of embeddings."""

from __future__ import annotations

import torch
from torch import Tensor


def rankme(z: Tensor, eps: float = 1e-7) -> Tensor:
    """exp of the entropy of p_k = sigma_k / sum(sigma) + eps over the singular values of z (N, D); between 1 and min(N, D).

    Garrido et al. 2023 (RankMe), eq. 1.
    """
    sigma = torch.linalg.svdvals(z.to(torch.promote_types(z.dtype, torch.float32)))
    p = sigma / sigma.sum().clamp_min(torch.finfo(sigma.dtype).tiny) + eps
    return torch.exp(-(p * p.log()).sum())
