"""Losses over hidden patches (He et al. 2022, MAE, section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from unlabeled.core import ranks


def masked_mse(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Global mean of (pred - target)^2 over elements, weighted; at least fp32. 0 where the weights sum to 0.

    pred, target (B, M, P); weight broadcastable to them, 0 for what does not count, which may hold anything.
    """
    wide = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
    # taken out before the square, so that no NaN reaches the gradient
    error = torch.where(weight > 0, pred.to(wide) - target.to(wide), 0)
    return ranks.mean(error.square(), weight)


def normalised_patches(patches: Tensor, valid: Tensor, eps: float = 1e-6) -> Tensor:
    """(x - mean) / sqrt(var + eps) of every patch over its valid elements, var unbiased; at least fp32.

    patches (..., P), valid (..., P) bool; invalid elements are 0.
    """
    x = patches.to(torch.promote_types(patches.dtype, torch.float32))
    n = valid.sum(-1, keepdim=True)
    mean = torch.where(valid, x, 0).sum(-1, keepdim=True) / n.clamp_min(1)
    centred = torch.where(valid, x - mean, 0)
    var = centred.square().sum(-1, keepdim=True) / (n - 1).clamp_min(1)
    return centred * torch.rsqrt(var + eps)
