"""Losses on the correlations between the dimensions of an embedding, over the items of all ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.losses.rows import present


def _centred(z: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """z minus its mean over the items that count, 0 in the rows that do not; weights (B, 1); the global count, 0-d."""
    z, weight = present(z, weight)
    w = weight[:, None]
    both = ranks.total(torch.cat([(z * w).sum(0), weight.sum()[None]]))
    count = both[-1].detach()
    return torch.where(w > 0, z - both[:-1] / count.clamp_min(1), 0), w, count


def standardised(z: Tensor, weight: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """z (B, D) with mean 0 and deviation 1 in every dimension over the items of all ranks that count, 0 in other rows.

    The variance is biased, with `eps` added, as batch norm has it; at least fp32.
    """
    centred, w, count = _centred(z, weight)
    return centred * torch.rsqrt(ranks.total((centred.square() * w).sum(0)) / count.clamp_min(1) + eps)


def barlow_twins(
    z1: Tensor, z2: Tensor, off_diagonal: float, weight: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Barlow Twins (Zbontar et al. 2021, eq. 1 and 2): sum_i (1 - C_ii)^2 + off_diagonal * sum_{i != j} C_ij^2.

    C is the correlation of the dimensions of z1 with those of z2, both (B, D), over the items of all ranks with
    positive weight (B,): biased variances with `eps` added, as batch norm has them. The reduction has a gradient, so
    no learning rate depends on the number of ranks. At least fp32, outside autocast.
    """
    with torch.autocast(z1.device.type, enabled=False):
        d = z1.shape[1]
        unit = standardised(torch.cat([z1, z2], 1), weight, eps)
        c = _products(unit[:, :d], unit[:, d:], weight)
        on = c.diagonal()
        return (1 - on).square().sum() + off_diagonal * _off_diagonal(c).square().sum()


def mixing(
    mixture: Tensor, first: Tensor, second: Tensor, other: Tensor, share: float, weight: Tensor | None = None
) -> Tensor:
    """How far mixtures are from correlating as their parts do (Bandara et al. 2023, Mixed Barlow Twins, section 3).

    With C(a, b) = sum_i a_i^T b_i / N over the items of all ranks and f = share, the squares of C(mixture, z) -
    (f C(first, z) + (1 - f) C(other, z)), summed over all pairs of dimensions, for z the first and the second view. That
    is C of what a linear map would leave of the mixture: mixture - f first - (1 - f) other. Nothing is detached. At least
    fp32, outside autocast.

    All (B, D), as they are or `standardised`: the projections of a mixture, of its item's two views, and of what it was
    mixed with. weight (B,).
    """
    with torch.autocast(mixture.device.type, enabled=False):
        parts, _ = present(torch.cat([mixture, first, second, other], 1), weight)
        mixture, first, second, other = parts.chunk(4, 1)
        left = mixture - share * first - (1 - share) * other
        return _products(left, torch.cat([first, second], 1), weight).square().sum()


def invariance(z1: Tensor, z2: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over items and dimensions of (z1 - z2)^2 (Bardes et al. 2022, VICReg, eq. 5); at least fp32."""
    a, w = present(z1, weight)
    return ranks.mean((a - present(z2, weight)[0]).square(), w[:, None])


def variance_and_covariance(z: Tensor, weight: Tensor | None = None, eps: float = 1e-4) -> tuple[Tensor, Tensor]:
    """The two regularisers of VICReg (Bardes et al. 2022) on z (B, D), over the items of all ranks; at least fp32.

    With Cov the unbiased covariance: mean_i max(0, 1 - sqrt(Cov_ii + eps)) (eq. 1 and 2), and
    sum_{i != j} Cov_ij^2 / D (eq. 3 and 4).
    """
    with torch.autocast(z.device.type, enabled=False):
        centred, w, count = _centred(z, weight)
        cov = ranks.total((centred * w).T @ centred) / (count - 1).clamp_min(1)
        hinge = (1 - (cov.diagonal() + eps).sqrt()).relu()
        return hinge.mean(), _off_diagonal(cov).square().sum() / z.shape[1]


def _products(a: Tensor, b: Tensor, weight: Tensor | None) -> Tensor:
    """The mean over the items of all ranks of a_i^T b_i, (D, E); a (B, D), b (B, E)."""
    w = a.new_ones(len(a)) if weight is None else weight.to(a.dtype)
    return ranks.total((a * w[:, None]).T @ b) / ranks.total(w.sum()).clamp_min(1)


def _off_diagonal(square: Tensor) -> Tensor:
    """The matrix with zeros on its diagonal."""
    return square - square.diagonal().diag()
