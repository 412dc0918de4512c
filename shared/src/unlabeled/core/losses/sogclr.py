"""Contrast against all items of the data, not only of the batch: an item's normaliser is a moving average of its own.

It stands alone, since image-text pairs are contrasted in the same way (Yuan et al. 2022, SogCLR; Qiu et al. 2023).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.losses.contrastive import pairs


class Contrast(NamedTuple):
    """loss 0-d; average, slope and weight (B,) for the tables of the items, without gradient (see `sogclr`)."""

    loss: Tensor
    average: Tensor
    slope: Tensor
    weight: Tensor


def sogclr(
    z1: Tensor,
    z2: Tensor,
    temperature: Tensor,
    average: Tensor,
    gamma: float,
    weight: Tensor | None = None,
    record: Tensor | None = None,
) -> Contrast:
    """The contrastive loss with a temperature t for every item (Qiu et al. 2023, iSogCLR), over the items of all ranks.

    For every anchor g = mean_k exp(s_k / t) over both views of all other items, s the cosine, and its moving average
    a = (1 - gamma) average + gamma g, or a = g where `average` is 0, which says that the item was not met before. Its
    loss is mean_k w_k s_k - s+ with w_k = exp(s_k / t) / a without gradient; the mean over the anchors counts. What the
    number is says little: its gradient is that of t log a - s+ with the average in the place of the batch's own. At least
    fp32, outside autocast.

    temperature, average (B,) belong to the items, whose two views share them; the others are those of `nt_xent`. Besides
    the loss comes, as the mean over an item's two anchors, the new average and the slope log a - mean_k w_k s_k / t, which
    with gamma = 1 is minus the divergence of the w_k / n from uniform; and the weight, 0 where there is no negative.
    """
    with torch.autocast(z1.device.type, enabled=False):
        cosine, positive, negative, weight = pairs(z1, z2, 1.0, weight, record)
        weight = weight * negative.any(1)
        t, before = (x.to(cosine.dtype).repeat(2) for x in (temperature, average))
        scaled = cosine.detach() / t[:, None]
        power = torch.where(negative, scaled.exp(), 0) / negative.sum(1, keepdim=True).clamp_min(1)
        met = power.sum(1)
        after = torch.where(before > 0, (1 - gamma) * before + gamma * met, met).clamp_min(torch.finfo(met.dtype).tiny)
        share = power / after[:, None]
        loss = ranks.mean((share * cosine).sum(1) - cosine.gather(1, positive)[:, 0], weight)
        slope = after.log() - (share * scaled).sum(1)
        return Contrast(loss, after.view(2, -1).mean(0), slope.view(2, -1).mean(0), weight[: len(z1)])
