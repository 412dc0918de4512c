"""Losses over what is hidden (He et al. 2022, MAE, section 3; others by name)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks


def masked_mse(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Global mean of (pred - target)^2 over elements, weighted; at least fp32. 0 where the weights sum to 0.

    pred, target (B, M, P); weight broadcastable to them, 0 for what does not count, which may hold anything.
    """
    return ranks.mean(_error(pred, target, weight).square(), weight)


def masked_l1(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Global mean of |pred - target|, as `masked_mse` (Xie et al. 2022, SimMIM, section 3.4)."""
    return ranks.mean(_error(pred, target, weight).abs(), weight)


def masked_smooth_l1(pred: Tensor, target: Tensor, weight: Tensor, beta: float = 1.0) -> Tensor:
    """Global mean of e^2 / (2 beta) where |e| < beta, else |e| - beta / 2, as `masked_mse` (Girshick 2015, eq. 3)."""
    size = _error(pred, target, weight).abs()
    return ranks.mean(torch.where(size < beta, 0.5 * size.square() / beta, size - 0.5 * beta), weight)


def masked_cosine(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Global mean of -cos(pred, target) over tokens (..., D), weight (...) (Xu et al. 2025, NEPA); at least fp32."""
    with torch.autocast(pred.device.type, enabled=False):
        wide = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
        a, b = (F.normalize(torch.where(weight[..., None] > 0, x.to(wide), 0), dim=-1) for x in (pred, target))
        return ranks.mean(-(a * b).sum(-1), weight)


def _error(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    wide = torch.promote_types(torch.promote_types(pred.dtype, target.dtype), torch.float32)
    # taken out before any product, so that no NaN reaches the gradient
    return torch.where(weight > 0, pred.to(wide) - target.to(wide), 0)


def normalised_patches(patches: Tensor, valid: Tensor | None, eps: float = 1e-6) -> Tensor:
    """(x - mean) / sqrt(var + eps) of every patch over its valid elements, var unbiased; at least fp32.

    patches (..., P), valid (..., P) bool or None: all; invalid elements are 0.
    """
    if valid is None:
        x = patches.to(torch.promote_types(patches.dtype, torch.float32))
        centred = x - x.mean(-1, keepdim=True)
        spread = centred.square().sum(-1, keepdim=True) / max(1, x.shape[-1] - 1)
        return centred * torch.rsqrt(spread + eps)
    mean, var = moments(patches, valid)
    return torch.where(valid, patches.to(mean.dtype) - mean, 0) * torch.rsqrt(var + eps)


def moments(patches: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """(..., 1) mean and unbiased variance of every patch over its valid elements; at least fp32."""
    x = patches.to(torch.promote_types(patches.dtype, torch.float32))
    n = valid.sum(-1, keepdim=True)
    mean = torch.where(valid, x, 0).sum(-1, keepdim=True) / n.clamp_min(1)
    var = torch.where(valid, x - mean, 0).square().sum(-1, keepdim=True) / (n - 1).clamp_min(1)
    return mean, var


def masked_cross_entropy(logits: Tensor, ids: Tensor, weight: Tensor, smoothing: float = 0.0) -> Tensor:
    """Global mean of -log softmax(logits)[id] over tokens, weighted (Bao et al. 2022, BEiT, eq. 2); at least fp32.

    logits (..., K), ids (...) int64 in [0, K), weight (...), 0 for what does not count, which may hold anything: there
    the id is not read. smoothing: share of the target that is spread over all K (Szegedy et al. 2016, section 7).
    """
    with torch.autocast(logits.device.type, enabled=False):
        counts = weight > 0
        wide = torch.where(counts[..., None], logits.to(torch.promote_types(logits.dtype, torch.float32)), 0)
        shares = wide.log_softmax(-1)
        nll = -shares.gather(-1, torch.where(counts, ids, 0)[..., None])[..., 0]
        if smoothing:
            nll = (1 - smoothing) * nll - smoothing * shares.mean(-1)
        return ranks.mean(nll, weight)
