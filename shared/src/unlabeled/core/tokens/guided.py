"""Masks that a model guides: by what it expects to be hard, or by what it attends to.

For methods with a teacher, of the core and of the packages. Counts are those of `tokens.masks`; nothing waits for the
device.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unlabeled.core.tokens.masks import Mask, Rounding, keep_lowest, kept_each


def loss_guided(
    valid: Tensor, ratio: float, noise: Tensor, hint: Tensor, share: float, rounding: Rounding = "keep"
) -> Mask:
    """Hides the tokens of the highest hint, and random ones (Wang et al. 2023, Hard Patches Mining: easy-to-hard masks).

    valid  (B, L) bool
    noise  (B, L) uniform
    hint   (B, L), higher where a token is expected to be harder
    share  of the hidden tokens, rounded down, that are the hardest; 0: the mask of `random_mask` of this noise
    """
    n = valid.sum(1, keepdim=True)
    hardest = ((n - kept_each(n, ratio, rounding)).to(torch.float64) * share).long()
    order = hint.masked_fill(~valid, -torch.inf).argsort(dim=1, descending=True, stable=True)
    is_hard = torch.arange(valid.shape[1], device=valid.device) < hardest
    hard = torch.zeros_like(valid).scatter(1, order, is_hard)
    # noise is below 1: what is hard comes after all else
    return keep_lowest(noise.masked_fill(hard, 2.0), valid, ratio, rounding)


def attention_guided(
    valid: Tensor, ratio: float, noise: Tensor, weight: Tensor, hide: bool = False, rounding: Rounding = "keep"
) -> Mask:
    """Keeps tokens drawn one after the other, without replacement, each in proportion to its weight.

    Xue et al. 2023, Stare at What You See (MaskAlign: attentive masks). The draw is a race: the tokens in the order of
    their exponential times -log(1 - u) / weight (Efraimidis and Spirakis 2006).

    valid (B, L) bool, noise (B, L) uniform, weight (B, L), taken as the smallest number above 0 where it is not above 0;
    hide: the tokens that are drawn first are hidden, and not kept
    """
    rate = torch.where(weight > 0, weight, 0).to(torch.float64).clamp_min(torch.finfo(torch.float32).tiny)
    time = -torch.log1p(-noise.to(torch.float64)) / rate
    return keep_lowest(-time if hide else time, valid, ratio, rounding)
