"""SIGReg: how far the embeddings are from an isotropic Gaussian (Balestriero and LeCun 2025, LeJEPA).

It stands alone as every loss does: a pure function with its oracle, which regularises any embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks, streams
from unlabeled.core.losses.rows import present

POINTS, LAST = 17, 3.0


def slices(key: int, count: int, width: int, device: torch.device) -> Tensor:
    """(count, width) random unit vectors, fp32: a pure function of `key`, the same on every device and rank."""
    numbers = torch.arange(count, device=device)
    return F.normalize(streams.normal(key, numbers, (width,)), dim=1)


def sigreg(z: Tensor, directions: Tensor, weight: Tensor | None = None) -> Tensor:
    """Epps and Pulley's statistic of normality, along every direction (K, D), mean over them; at least fp32.

    N int |phi_N(t) - exp(-t^2 / 2)|^2 exp(-t^2 / 2) dt over [-3, 3], with phi_N the characteristic function of the N
    items of all ranks that have positive weight, z (B, D): the trapezium rule on 17 points of [0, 3], doubled, since
    the integrand is even. 1.0524642 on average where z is standard normal, whatever N; .4020476 N where all is 0.
    """
    with torch.autocast(z.device.type, enabled=False):
        z, weight = present(z, weight)
        t = torch.linspace(0, LAST, POINTS, device=z.device, dtype=z.dtype)
        gaussian = torch.exp(-t.square() / 2)
        step = torch.full_like(t, 2 * LAST / (POINTS - 1))
        step = torch.cat([step[:1] / 2, step[1:-1], step[-1:] / 2])

        phase = (z @ directions.T.to(z.dtype))[..., None] * t
        wave = torch.stack([torch.einsum("bkt,b->kt", part, weight) for part in (phase.cos(), phase.sin())])
        both = ranks.total(torch.cat([wave.flatten(), weight.sum()[None]]))
        count = both[-1].detach()
        real, imaginary = (both[:-1] / count.clamp_min(1)).view_as(wave)
        error = (real - gaussian).square() + imaginary.square()
        along: Tensor = error @ (step * gaussian)
        return count * along.mean()
