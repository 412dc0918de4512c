"""A teacher's features as targets, and how far they are from having collapsed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks


def layer_normed(x: Tensor) -> Tensor:
    """(..., D) with mean 0 and variance 1 over D, no learned scale (Assran et al. 2023, I-JEPA); at least fp32."""
    return F.layer_norm(_wide(x), x.shape[-1:])


def unit(x: Tensor) -> Tensor:
    """(..., D) of length 1 over D (Kalapos and Gyires-Toth 2024, CNN-JEPA, section III); at least fp32."""
    return F.normalize(_wide(x), dim=-1)


def contextual(layers: Sequence[Tensor], valid: Tensor | None) -> Tensor:
    """Target of data2vec 2.0 (Baevski et al. 2022, section 3.1): the layers' mean, each instance-normed, then layer-normed.

    layers (B, L, D) each, valid (B, L) bool, None: all -> (B, L, D) in at least fp32. An instance norm takes mean and variance of
    every channel over the valid tokens of an item; what it gives at the others is of no use.
    """
    there = None if valid is None else valid[..., None]
    total = _instance_normed(_wide(layers[0]), there)
    for x in layers[1:]:
        total = total + _instance_normed(_wide(x), there)
    return layer_normed(total / len(layers))


@torch.no_grad()
def target_std(target: Tensor, weight: Tensor) -> Tensor:
    """sqrt(var + 1e-6) of every channel over the tokens of all ranks, mean over channels; 0-d, a vital sign.

    target (..., D), weight (...), 0 for tokens that do not count, which may hold anything. var is unbiased. At collapse
    it is 1e-3: the guard of data2vec 2.0, whose recipes stop a run below 0.1.
    """
    x, w = _wide(target).flatten(0, -2), weight.flatten()[:, None]
    x, w = torch.where(w > 0, x, 0), w.to(x.dtype)
    sums = ranks.total(torch.cat([(x * w).sum(0), w.sum(0)]))
    mean, count = sums[:-1] / sums[-1].clamp_min(1), sums[-1]
    var = ranks.total(((x - mean).square() * w).sum(0)) / (count - 1).clamp_min(1)
    return (var + 1e-6).sqrt().mean()


def _instance_normed(x: Tensor, valid: Tensor | None, eps: float = 1e-5) -> Tensor:
    if valid is None:
        centred = x - x.mean(1, keepdim=True)
        return centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + eps)
    count = valid.sum(1, keepdim=True).clamp_min(1)
    centred = torch.where(valid, x - torch.where(valid, x, 0).sum(1, keepdim=True) / count, 0)
    return centred * torch.rsqrt(centred.square().sum(1, keepdim=True) / count + eps)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
