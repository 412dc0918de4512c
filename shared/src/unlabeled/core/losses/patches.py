"""Losses between what a student makes of patches that it does not see, and what its teacher makes of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks


def hidden_assignments(student: Tensor, target: Tensor, temperature: float, hidden: Tensor, weight: Tensor) -> Tensor:
    """Cross-entropy on hidden patches (Zhou et al. 2022, iBOT, eq. 2); at least fp32, outside autocast.

    student      outputs (B, M, K), divided by the temperature
    target       shares (B, M, K), each sums to 1
    hidden       (B, M) bool; what is not hidden may hold anything
    weight       (B,)
    The mean over the hidden patches of an item, and of that the mean over items. An item that hides nothing counts as 0,
    and counts, as in the authors' code: no patch weighs more for being among the few hidden ones of a batch.
    """
    with torch.autocast(student.device.type, enabled=False):
        counts = hidden & (weight[:, None] > 0)
        wide = torch.promote_types(student.dtype, torch.float32)
        logits, shares = (torch.where(counts[..., None], x.to(wide), 0) for x in (student, target))
        patches = -(shares * (logits / temperature).log_softmax(-1)).sum(-1)
        return ranks.mean(patches.sum(1) / counts.sum(1).clamp_min(1), weight)


def patch_contrast(
    student: Tensor,
    teacher: Tensor,
    temperature: float,
    hidden: Tensor,
    weight: Tensor,
    record: Tensor | None = None,
) -> Tensor:
    """InfoNCE between patches (van den Oord et al. 2018, eq. 4), with the patches of all ranks; at least fp32.

    For every hidden patch -s+ / t + log sum_k exp(s_k / t), where s+ is the cosine of what the student and the teacher
    (B, M, D) make of it, and k runs over what the teacher makes of all hidden patches, the other ones of the item too. M is
    the same on all ranks. hidden (B, M) bool, weight (B,); the reduction is that of `hidden_assignments`.
    record (B,) int64: where given, patches of other items of the item's record are left out.
    """
    with torch.autocast(student.device.type, enabled=False):
        b, m = hidden.shape
        counts = hidden & (weight[:, None] > 0)
        wide = torch.promote_types(student.dtype, torch.float32)
        query, key = (
            F.normalize(torch.where(counts[..., None], x.to(wide), 0), dim=-1).flatten(0, 1) for x in (student, teacher)
        )
        similarity = (query @ ranks.gather(key).T / temperature).view(b, m, -1, m)
        # not every backend gathers booleans
        met = (ranks.gather(counts.to(wide)) > 0)[None, None]
        item = ranks.rank() * b + torch.arange(b, device=hidden.device)[:, None]
        same = item == torch.arange(similarity.shape[2], device=hidden.device)
        if record is not None:
            met = met & (same | (record[:, None] != ranks.gather(record)))[:, None, :, None]
        # a patch that does not count meets itself alone, so that none sums over nothing
        own = same[:, None, :, None] & torch.eye(m, dtype=torch.bool, device=hidden.device)[None, :, None]
        apart = similarity.masked_fill(~(met | own), -torch.inf).flatten(2).logsumexp(2)
        together = (query * key).sum(1).view(b, m) / temperature
        return ranks.mean(((apart - together) * counts).sum(1) / counts.sum(1).clamp_min(1), weight)
