"""Which prototype an item belongs to, where every prototype gets its equal share of the items."""

from __future__ import annotations

import torch
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.losses.rows import present


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, iterations: int = 3, weight: Tensor | None = None) -> Tensor:
    """Assignments (B, K) of scores (B, K) by Sinkhorn and Knopp (Cuturi 2013; Caron et al. 2020, SwAV, section 3.1).

    exp(scores / temperature), its columns scaled to B / K and then its rows to 1, `iterations` times: a row sums to 1, and
    the more iterations, the nearer a column is to B / K. B counts the rows of all ranks. No gradient; at least fp32,
    outside autocast. Rows of `weight` (B,) 0 are in no column's sum and come out as 0.
    """
    with torch.autocast(scores.device.type, enabled=False):
        scores, w = present(scores, weight)
        there = w > 0
        # The matrix stays as it is, and only the factors of its rows and columns change. Every row is taken relative to
        # its own maximum, so that a low temperature overflows nowhere and leaves no row empty; the rows' first factors
        # put back what that took away.
        top = scores.amax(1)
        own = torch.cat([torch.where(there, top, -torch.inf), top.new_full((1,), -torch.inf)])  # a rank may have no row
        highest = ranks.gather(own.amax()[None]).amax()
        power = (scores - top[:, None]).div_(temperature).exp_()
        least = torch.finfo(power.dtype).tiny ** 0.5
        rows = torch.where(there, ((top - highest) / temperature).exp().clamp_min(least), 0)
        share = ranks.total(w.sum()) / scores.shape[1]
        for _ in range(iterations):
            columns = share / ranks.total((rows * w) @ power).clamp_min(least)
            rows = torch.where(there, 1 / (power @ columns).clamp_min(least), 0)
        return power.mul_(columns).mul_(rows[:, None])
