"""Groups in their order: an item's own views shall be nearer than the items nearest to it (Shvetsova et al. 2023, GroCo).

The sorting network stands alone for every loss on ranks that wants a gradient (Petersen et al. 2021, 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.losses.rows import present


def odd_even(x: Tensor, steepness: float = 1.0, number: Tensor | None = None) -> Tensor:
    """(R, n) -> (R, n, n): how much of the i-th element of a row is in its j-th place once it is sorted, rising.

    An odd-even network of n layers, in which two neighbours a, b stay as they are by the share
    atan(steepness (b - a)) / pi + 1/2 and change places by the rest (Petersen et al. 2022, Monotonic Differentiable
    Sorting Networks). Rows and columns sum to 1. number (R,): only the first so many elements of a row are there, and
    they are sorted as if they were alone.
    """
    rows, n = x.shape
    # the values are mixed as the rows of the matrix are
    state = torch.cat([x[:, None], torch.eye(n, dtype=x.dtype, device=x.device).expand(rows, n, n)], 1)
    for layer in range(n):
        first = layer % 2
        last = first + (n - first) // 2 * 2
        if first == last:
            continue
        a, b = state[:, :, first:last:2], state[:, :, first + 1 : last : 2]
        stay = (steepness * (b[:, :1] - a[:, :1])).atan() / math.pi + 0.5
        if number is not None:
            at = torch.arange(first, last, 2, device=x.device)
            there = (at + 1 < number[:, None]) & (layer < number[:, None])
            stay = torch.where(there[:, None], stay, 1)
        changed = torch.stack([stay * a + (1 - stay) * b, (1 - stay) * a + stay * b], 3).flatten(2)
        state = torch.cat([state[:, :, :first], changed, state[:, :, last:]], 2)
    return state[:, 1:]


def group_order(negative: Tensor, positive: Tensor, steepness: float = 1.0) -> tuple[Tensor, Tensor]:
    """How far the positives of an anchor are from standing behind its negatives, (R,); and whether it counts (R,) bool.

    The similarities, rising within their groups, are sorted; an element's share q in the places of its own group gives
    -log q, and the mean over the elements counts (Shvetsova et al. 2023, section 3: the binary cross-entropies of both
    groups are equal, since the shares of an element sum to 1). The order within a group does not matter.

    negative (R, K), of which those that are -inf are not there: an anchor has fewer then, and without any it does not
    count. positive (R, P).
    """
    missing = negative.isneginf().sum(1)
    k, n = negative.shape[1], negative.shape[1] + positive.shape[1]
    x = torch.cat([negative.sort(dim=1).values, positive.sort(dim=1).values], 1)
    # those that are missing are the lowest: they go behind the others, where the network leaves them
    at = torch.arange(n, device=x.device)
    from_place = (at + missing[:, None]) % n
    is_missing = from_place < missing[:, None]
    x = torch.where(is_missing, 0, x.gather(1, from_place))
    group = torch.where(is_missing, 2, (from_place >= k).long())
    own = (odd_even(x, steepness, n - missing) * (group[:, :, None] == group[:, None, :])).sum(2)
    cost = -own.clamp(torch.finfo(own.dtype).tiny, 1).log()
    counts = missing < k
    return torch.where(is_missing, 0, cost).sum(1) / (n - missing), counts


def groco(
    crops: Sequence[Tensor],
    views: int,
    negatives: int = 10,
    steepness: float = 1.0,
    weight: Tensor | None = None,
    record: Tensor | None = None,
) -> Tensor:
    """GroCo over the items of all ranks: the mean of `group_order` over all crops as anchors; at least fp32.

    An anchor's positives are the other ones of the first `views` crops of its item, its negatives the `negatives` nearest
    among the same crop of all other items. Only the anchor has a gradient. Cosines of crops (B, D), row b of all is one
    item. weight (B,): an item of weight 0 is neither anchor nor negative. record (B,) int64: where given, other items of
    the anchor's record are no negatives of it.
    """
    with torch.autocast(crops[0].device.type, enabled=False):
        z = [F.normalize(present(crop, weight)[0], dim=1) for crop in crops]
        w = z[0].new_ones(len(z[0])) if weight is None else weight
        own = ranks.rank() * len(w) + torch.arange(len(w), device=w.device)
        met = (ranks.gather(w) > 0)[None, :].repeat(len(w), 1).scatter(1, own[:, None], False)
        if record is not None:
            met = met & (record[:, None] != ranks.gather(record)[None, :])
        terms = []
        for i, anchor in enumerate(z):
            everyone = anchor @ ranks.gather(anchor.detach()).T
            nearest = everyone.masked_fill(~met, -torch.inf).topk(min(negatives, met.shape[1]), 1).values
            positive = torch.stack([(anchor * z[j].detach()).sum(1) for j in range(views) if j != i], 1)
            cost, counts = group_order(nearest, positive, steepness)
            terms.append(ranks.mean(cost, w * counts))
        return torch.stack(terms).mean()
