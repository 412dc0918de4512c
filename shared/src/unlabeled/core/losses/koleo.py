"""Features kept apart: no item lies close to another one.

It stands alone because it is a term beside any loss of items, and the recipes for slides take it with terms of their own.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.losses.rows import present


def koleo(z: Tensor, weight: Tensor | None = None, eps: float = 1e-4) -> Tensor:
    """Mean over items of -log of the distance to the nearest other item (Sablayrolles et al. 2019, section 3.2, L_KoLeo).

    z (B, D), taken at length 1. The neighbours are the items of all ranks, and of positive weight (B,). A distance d
    counts as sqrt(d^2 + eps^2), so that the gradient is at most 1 / (2 eps), and 0 between duplicates, which have no
    direction to part in. An item that is alone gives 0. At least fp32, outside autocast.
    """
    with torch.autocast(z.device.type, enabled=False):
        z, w = present(z, weight)
        unit = F.normalize(z, dim=1)
        everyone = ranks.gather(unit)
        own = ranks.rank() * len(z) + torch.arange(len(z), device=z.device)[:, None]
        with torch.no_grad():
            other = (ranks.gather(w) > 0)[None, :].expand(len(z), -1).scatter(1, own, False)
            nearest = (unit @ everyone.T).masked_fill(~other, -torch.inf).argmax(1)
        square = (unit - everyone.index_select(0, nearest)).square().sum(1)
        return ranks.mean(-0.5 * (square + eps**2).log(), w * other.any(1))
