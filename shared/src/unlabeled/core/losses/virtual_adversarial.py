"""Virtual adversarial training: Miyato et al. 2018, Virtual Adversarial Training, A Regularization Method."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unlabeled.core import ranks


def unit(direction: Tensor, valid: Tensor) -> Tensor:
    """Directions (B, L, D) with a mean square of 1 over each row's valid tokens (B, L), and 0 at the others; at least fp32.

    A row's length is then sqrt(n D) for its n tokens: a perturbation of a size has that size in every channel, however
    long the row is. A row of zeros stays so.
    """
    wide = direction.to(torch.promote_types(direction.dtype, torch.float32))
    wide = torch.where(valid[..., None], wide, 0)
    # by the largest first, so that squares of tiny gradients do not vanish
    wide = wide / wide.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(wide.dtype).tiny)
    count = valid.sum(1)[:, None, None] * wide.shape[2]
    return wide * torch.rsqrt((wide.square().sum((1, 2), keepdim=True) / count.clamp_min(1)).clamp_min(1e-30))


def adversarial(
    divergence: Callable[[Tensor], Tensor], start: Tensor, valid: Tensor, steps: int = 1, probe: float = 1e-2
) -> Tensor:
    """The direction (B, L, D), a `unit` one, in which a divergence grows fastest, by power iteration (algorithm 1).

    At 0 the divergence and its gradient are 0, so that the gradient at a small r is the Hessian times r, and
    d <- unit(gradient at probe * d) goes to the eigenvector of the largest eigenvalue.

    divergence  of a perturbation (B, L, D) the sum over all rows, each a function of its own part alone
    start       (B, L, D) random, as a direction at right angles to the eigenvector never reaches it
    """
    direction = unit(start, valid)
    with torch.enable_grad():
        for _ in range(steps):
            r = (probe * direction).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(divergence(r), r)
            direction = unit(gradient, valid)
    return direction.detach()


def divergence(clean: Tensor, other: Tensor) -> Tensor:
    """KL(p || q) (...) of the softmax of logits (..., V); at least fp32, never below 0. No gradient goes to `clean`."""
    with torch.autocast(clean.device.type, enabled=False):
        p, q = _log_softmax(clean.detach()), _log_softmax(other)
        # p - q + p (log p - log q) has the same sum, and no term of it is negative
        return (p.exp() * (p - q) + q.exp() - p.exp()).sum(-1)


def symmetric(clean: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Global mean over tokens of KL(p || q) + KL(q || p), p of `clean`, which gets no gradient; at least fp32.

    clean, other (..., V) logits; weight (...), 0 for what does not count, which may hold anything. The mean is over
    tokens, so that neither the size of the batch nor the length of its items changes its scale.
    """
    with torch.autocast(clean.device.type, enabled=False):
        p, q = (_log_softmax(torch.where(weight[..., None] > 0, x, 0)) for x in (clean.detach(), other))
        return ranks.mean(((p.exp() - q.exp()) * (p - q)).sum(-1), weight)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
