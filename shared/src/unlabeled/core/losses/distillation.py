"""Losses between a student and its teacher. They stop no gradient: who may learn is the method's decision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.losses.rows import present


def regression(pred: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """2 - 2 cos(pred, target), both (B, D), mean over items (Grill et al. 2020, BYOL, eq. 2); at least fp32."""
    with torch.autocast(pred.device.type, enabled=False):
        a, w = present(pred, weight)
        b, _ = present(target, weight)
        return ranks.mean(2 - 2 * (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1), w)


def assignments(teacher: Tensor, center: Tensor, temperature: float) -> Tensor:
    """softmax((teacher - center) / temperature) over the last axis (Caron et al. 2021, DINO, section 3.1)."""
    wide = torch.promote_types(teacher.dtype, torch.float32)
    return ((teacher.to(wide) - center) / temperature).softmax(-1)


def dino(
    students: Sequence[Tensor], targets: Sequence[Tensor], temperature: float, weight: Tensor | None = None
) -> Tensor:
    """DINO (Caron et al. 2021, eq. 3): cross-entropy of a student's crop against a teacher's *other* crop.

    students  outputs (B, K) of every crop, the teacher's crops first and in their order
    targets   `assignments` (B, K) of the teacher's crops
    Mean over items and over pairs of different crops; at least fp32, outside autocast.
    """
    with torch.autocast(students[0].device.type, enabled=False):
        shares = [present(t, weight)[0] for t in targets]
        terms, pairs = [], 0
        for j, student in enumerate(students):
            others = shares[:j] + shares[j + 1 :]
            logits = present(student, weight)[0] / temperature
            # a target sums to 1, so that sum_i -<t_i, log softmax(s)> is n logsumexp(s) - <sum_i t_i, s>
            terms.append(len(others) * logits.logsumexp(1) - (sum(others) * logits).sum(1))
            pairs += len(others)
        return ranks.mean(torch.stack(terms).sum(0) / pairs, present(students[0], weight)[1])
