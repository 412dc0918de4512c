"""Losses between two views of the same items, against all other items."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.losses.rows import present


class Pairs(NamedTuple):
    """What every anchor (B of the first view, then B of the second) meets: both views of the N items of all ranks.

    similarity (2B, 2N) cosines over the temperature; positive (2B, 1) column of the anchor's other view; negative
    (2B, 2N) bool; weight (2B,) of the anchors.
    """

    similarity: Tensor
    positive: Tensor
    negative: Tensor
    weight: Tensor


def pairs(z1: Tensor, z2: Tensor, temperature: float, weight: Tensor | None, record: Tensor | None) -> Pairs:
    views = [F.normalize(present(z, weight)[0], dim=1) for z in (z1, z2)]
    keys = torch.cat([ranks.gather(z) for z in views])
    weight = torch.ones_like(z1[:, 0]) if weight is None else weight
    item = (ranks.rank() * len(z1) + torch.arange(len(z1), device=z1.device)).repeat(2)
    everyone = torch.arange(len(keys) // 2, device=z1.device)

    negative = (item[:, None] != everyone.repeat(2)[None, :]) & (ranks.gather(weight) > 0).repeat(2)[None, :]
    if record is not None:
        negative = negative & (record.repeat(2)[:, None] != ranks.gather(record).repeat(2)[None, :])
    other = torch.cat([len(everyone) + item[: len(z1)], item[: len(z1)]])[:, None]
    return Pairs(torch.cat(views) @ keys.T / temperature, other, negative, weight.repeat(2))


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
        (a, w), (b, _) = present(z1, weight), present(z2, weight)
        views = [F.normalize(z, dim=1) for z in (a, b)]
        keys = torch.cat([ranks.gather(z) for z in views])
        item = ranks.rank() * len(a) + torch.arange(len(a), device=a.device)
        own = torch.cat([item, item + len(keys) // 2])[:, None]
        positive = own.roll(len(a), 0)
        # -inf and not a large number: at a low temperature an added constant lets the anchor itself leak in
        absent = torch.where(ranks.gather(w) > 0, 0.0, -torch.inf).to(keys.dtype).repeat(2)
        similarity = torch.addmm(absent, torch.cat(views) / temperature, keys.T)
        with torch.no_grad():  # what is masked has no gradient anyhow, and a matrix of this size is not copied for it
            wanted = similarity.gather(1, positive)
            if record is not None:
                similarity.masked_fill_(record.repeat(2)[:, None] == ranks.gather(record).repeat(2), -torch.inf)
            similarity.scatter_(1, own, -torch.inf)
            # the positive always stays, so that no anchor sums over nothing
            similarity.scatter_(1, positive, torch.where(w.repeat(2)[:, None] > 0, wanted, 0))
        return ranks.mean(F.cross_entropy(similarity, positive[:, 0], reduction="none"), w.repeat(2))


def dcl(
    z1: Tensor,
    z2: Tensor,
    temperature: float,
    weight: Tensor | None = None,
    record: Tensor | None = None,
    sigma: float | None = None,
) -> Tensor:
    """DCL (Yeh et al. 2022, Decoupled Contrastive Learning, eq. 6) over the items of all ranks; at least fp32.

    NT-Xent whose sum does not hold the positive: -w s+ / t + log sum_k exp(s_k / t), k over both views of all *other*
    items. With `sigma` it is DCLW (section 3.2): w_i = 2 - exp(s+_i / sigma) / mean_j exp(s+_j / sigma), of mean 1 and
    without gradient, so that pairs which agree already pull less; w is 1 otherwise.

    The arguments are those of `nt_xent`. An anchor without any negative does not count.
    """
    with torch.autocast(z1.device.type, enabled=False):
        similarity, positive, negative, weight = pairs(z1, z2, temperature, weight, record)
        repelled = similarity.masked_fill(~negative, -torch.inf).logsumexp(1)
        attracted = similarity.gather(1, positive)[:, 0]
        if sigma is not None:
            attracted = attracted * _mises_fisher(attracted.detach() * temperature, sigma, weight)
        # without a negative an anchor's sum is -inf: it weighs nothing, and what was masked has no gradient
        return ranks.mean(repelled - attracted, weight * negative.any(1))


def _mises_fisher(cosine: Tensor, sigma: float, weight: Tensor) -> Tensor:
    """2 - exp(cosine / sigma) over its mean; a cosine is at most 1, so that 1 taken off keeps the power in range."""
    power = ((cosine - 1) / sigma).exp()
    return 2 - power / ranks.mean(power, weight).clamp_min(torch.finfo(power.dtype).tiny)


def info_nce(
    query: Tensor,
    key: Tensor,
    temperature: float | Tensor,
    weight: Tensor | None = None,
    record: Tensor | None = None,
) -> Tensor:
    """InfoNCE (van den Oord et al. 2018, eq. 4) with the keys of all ranks; at least fp32, outside autocast.

    For every query -s+ / t + log sum_k exp(s_k / t), k over the keys of all items, its own among them; s is the cosine.
    Unlike NT-Xent no query is a key, so a teacher may give the keys; the temperature may be learned. The arguments are those of `nt_xent`.
    """
    with torch.autocast(query.device.type, enabled=False):
        (q, w), (k, _) = present(query, weight), present(key, weight)
        similarity = F.normalize(q, dim=1) @ ranks.gather(F.normalize(k, dim=1)).T / temperature
        own = ranks.rank() * len(q) + torch.arange(len(q), device=q.device)[:, None]
        met = (ranks.gather(w) > 0)[None, :]
        if record is not None:
            met = met & (record[:, None] != ranks.gather(record)[None, :])
        met = met.expand_as(similarity).scatter(1, own, True)
        apart = similarity.masked_fill(~met, -torch.inf).logsumexp(1)
        return ranks.mean(apart - similarity.gather(1, own)[:, 0], w)


def queue_nce(
    query: Tensor, key: Tensor, queue: Tensor, met: Tensor, temperature: float, weight: Tensor | None = None
) -> Tensor:
    """InfoNCE against a queue (He et al. 2020, MoCo, eq. 1); at least fp32, outside autocast.

    For every query -s+ / t + log(exp(s+ / t) + sum_k exp(s_k / t)), k over the rows that it meets; s is the cosine, s+ that
    with its own key. Mean over the queries of all ranks of positive weight (B,).

    query, key (B, D); queue (Q, D) rows of length 1; met (Q,) or (B, Q) bool, False for rows that are no negatives, which
    may hold anything finite. A query that meets none costs 0.
    """
    with torch.autocast(query.device.type, enabled=False):
        (q, w), (k, _) = present(query, weight), present(key, weight)
        q, k = F.normalize(q, dim=1), F.normalize(k, dim=1)
        far = (q @ queue.to(q.dtype).T).masked_fill(~met, -torch.inf)
        similarity = torch.cat([(q * k).sum(1, keepdim=True), far], 1) / temperature
        return ranks.mean(similarity.logsumexp(1) - similarity[:, 0], w)
