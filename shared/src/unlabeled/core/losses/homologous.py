"""A supervised contrast among the tokens of one sequence. It stands alone for every method whose tokens carry a label
that costs nothing: the item they come from (MixedAE), the region they lie in."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks


def homologous(tokens: Tensor, label: Tensor, valid: Tensor, temperature: float) -> Tensor:
    """Tokens of one label attract and all others repel, within each sequence; at least fp32, outside autocast.

    For every anchor the mean over its positives p of -s_p / t + log sum_k exp(s_k / t), k over all valid tokens of its
    sequence but itself; s is the cosine (Khosla et al. 2020, SupCon, eq. 2; Chen et al. 2023, MixedAE, section 3.3).
    Mean over the anchors of all ranks that have a positive and a negative; 0 where there is none.

    tokens (B, L, D), label (B, L) int64, valid (B, L) bool; what is invalid may hold anything.
    """
    with torch.autocast(tokens.device.type, enabled=False):
        z = torch.where(valid[..., None], tokens.to(torch.promote_types(tokens.dtype, torch.float32)), 0)
        z = F.normalize(z, dim=-1)
        itself = torch.eye(label.shape[1], dtype=torch.bool, device=label.device)
        met = valid[:, :, None] & valid[:, None, :] & ~itself
        same = label[:, :, None] == label[:, None, :]
        positive = met & same
        counts = positive.any(-1) & (met & ~same).any(-1)
        similarity = z @ z.mT / temperature
        # an anchor that meets nobody keeps its row as it is, since a sum over nothing has no finite logarithm
        total = similarity.masked_fill(~(met | ~counts[..., None]), -torch.inf).logsumexp(-1)
        attracted = (similarity * positive).sum(-1) / positive.sum(-1).clamp_min(1)
        return ranks.mean(total - attracted, counts)
