"""Rows of a batch, drawn to become entries of a codebook; the same ones on every number of ranks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.streams import uniform


def drawn(x: Tensor, mass: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """(K, D) rows of x (N, D) of all ranks, each with probability mass (N,) over its sum; and whether there was any mass.

    u (K,) uniform, equal on all ranks; a row may be drawn twice. Only the drawn rows travel: the ranks' masses lie behind
    each other on a line, and the rank on whose part a number falls gives the row. 0 where there was no mass.
    """
    if not len(x):  # nothing was read on this rank
        x, mass = x.new_zeros(1, x.shape[1]), mass.new_zeros(1)
    line = mass.to(torch.float64).cumsum(0)
    ends = ranks.gather(line[-1:]).cumsum(0)
    start = ends[ranks.rank()] - line[-1]
    at = u.to(torch.float64) * ends[-1]
    mine = torch.searchsorted(ends, at, right=True) == ranks.rank()
    found = torch.searchsorted(line, at - start, right=True).clamp_max(len(line) - 1)
    return ranks.total(torch.where(mine[:, None], x[found], 0)), ends[-1] > 0


@torch.no_grad()
def seeds(x: Tensor, weight: Tensor, count: int, stream: int) -> tuple[Tensor, Tensor]:
    """Greedy k-means++: `count` rows of x (N, D) of all ranks, (K, D); Arthur and Vassilvitskii 2007, sections 2.2 and 7.

    Each is the best of 2 + ln K rows drawn by their squared distance to those before: the one that leaves the least of
    it. weight (N,), 0 for rows that do not count, which are finite. Also (K,) bool, False where no row was left that
    differs from those before. `count` passes over x.
    """
    trials = 2 + int(math.log(count))
    u = uniform(stream, torch.arange(count, device=x.device), (trials,))
    apart, mass = torch.full_like(weight, torch.inf), weight
    rows, there = [], []
    for i in range(count):
        candidates, any_left = drawn(x, mass, u[i])
        # by differences: a row is at exactly no distance from itself
        distance = torch.cdist(x, candidates, compute_mode="donot_use_mm_for_euclid_dist").square()
        left = apart[:, None].minimum(distance)
        best = ranks.total((weight[:, None] * left).sum(0)).argmin(0, keepdim=True)
        apart = left.index_select(1, best)[:, 0]
        mass = weight * apart
        rows.append(candidates.index_select(0, best))
        there.append(any_left)
    return torch.cat(rows), torch.stack(there)
