"""Losses between two views of the same items."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks


def nt_xent(
    z1: Tensor, z2: Tensor, temperature: float, weight: Tensor | None = None, record: Tensor | None = None
) -> Tensor:
    """NT-Xent (Chen et al. 2020, SimCLR, eq. 1) over the items of all ranks; at least fp32, outside autocast.

    For every anchor -s+ / t + log sum_k exp(s_k / t), k over both views of all items but the anchor itself; s is the
    cosine. Mean over the anchors of positive weight.

    z1, z2 (B, D), row b of both is one item. weight (B,): an item of weight 0 is neither anchor nor negative.
    record (B,) int64: where given, other items of the anchor's record are no negatives of it.
    """
    with torch.autocast(z1.device.type, enabled=False):
        wide = torch.promote_types(z1.dtype, torch.float32)
        views = [F.normalize(z.to(wide), dim=1) for z in (z1, z2)]
        keys = torch.cat([ranks.gather(z) for z in views])
        weight = torch.ones_like(z1[:, 0]) if weight is None else weight
        item = ranks.rank() * len(z1) + torch.arange(len(z1), device=z1.device)
        everyone = torch.arange(len(keys) // 2, device=z1.device)

        similarity = torch.cat(views) @ keys.T / temperature
        left_out = (ranks.gather(weight) == 0).repeat(2)[None, :]
        if record is not None:
            left_out = left_out | (record.repeat(2)[:, None] == ranks.gather(record).repeat(2)[None, :])
        # the positive always stays, so that no anchor sums over nothing
        left_out = left_out & (item.repeat(2)[:, None] != everyone.repeat(2)[None, :])
        itself = torch.cat([item, len(everyone) + item])[:, None]
        positive = torch.cat([len(everyone) + item, item])[:, None]
        # -inf and not a large number: at a low temperature an added constant lets the anchor itself leak in
        negatives = similarity.masked_fill(left_out.scatter(1, itself, True), -torch.inf)
        loss = negatives.logsumexp(1) - similarity.gather(1, positive)[:, 0]
        return ranks.mean(loss, weight.repeat(2))
