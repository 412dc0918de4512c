"""Losses on the order of things: which of two is larger, whatever the numbers are.

It stands alone, since recommenders rank too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks


def pairwise_order(pred: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Global mean of -log sigmoid(pred_i - pred_j) over the pairs of a row with target_i > target_j; at least fp32.

    Wang et al. 2023, Hard Patches Mining: the relative loss; Burges et al. 2005, RankNet. Tokens that tie are no pair.
    The target gets no gradient.

    pred, target (B, M); weight (B, M), 0 for what does not count, which may hold anything. A pair weighs what the lighter
    of the two does.
    """
    with torch.autocast(pred.device.type, enabled=False):
        counts = weight > 0
        wide = torch.promote_types(pred.dtype, torch.float32)
        p = torch.where(counts, pred.to(wide), 0)
        y = torch.where(counts, target.detach(), 0)
        is_pair = y[:, :, None] > y[:, None, :]
        pair = torch.minimum(weight[:, :, None], weight[:, None, :]) * is_pair
        return ranks.mean(-F.logsigmoid(p[:, :, None] - p[:, None, :]), pair)
