"""Alignment and uniformity on the sphere, without labels.

Wang and Isola 2020, eqs. 1 and 2. They are the two ends that contrastive learning trades between: views of an item lie near
each other, and items fill the sphere. Less is better of both.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 1024  # against all others at a time, so that the similarities stay small


def alignment(z1: Tensor, z2: Tensor, alpha: float = 2.0) -> Tensor:
    """Mean distance of two views of an item to the power alpha, of rows (N, D) of length 1: 0 for equal, 2^alpha for opposite."""
    distance: Tensor = (unit(z1) - unit(z2)).norm(dim=1)
    return distance.pow(alpha).mean()


def uniformity(z: Tensor, t: float = 2.0) -> Tensor:
    """log of the mean of exp(-t |x - y|^2) over all pairs of rows (N, D) of length 1, an item with itself left out.

    0 where all rows are one point, -4 t for an opposite pair. Large samples spread evenly over a sphere tend to a number that
    depends on its dimension alone, exp(-2t) I_0(2t) on the circle. NaN for fewer than two rows.
    """
    z = unit(z)
    n = len(z)
    if n < 2:
        return z.new_tensor(math.nan)
    own = torch.arange(n, device=z.device)
    parts = []
    for at in range(0, n, ROWS):
        near = -t * (2 - 2 * (z[at : at + ROWS] @ z.T).clamp(-1, 1))
        near = near.masked_fill(own[at : at + ROWS, None] == own, -torch.inf)
        parts.append(near.flatten().logsumexp(0))
    return torch.stack(parts).logsumexp(0) - math.log(n * (n - 1))


def unit(z: Tensor) -> Tensor:
    """Rows of length 1, at least in fp32; a row of zeros stays one."""
    return F.normalize(z.to(torch.promote_types(z.dtype, torch.float32)), dim=1)
