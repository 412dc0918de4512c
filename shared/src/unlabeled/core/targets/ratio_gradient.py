"""The ratio gradient: edges of radar images that speckle does not move (Li et al. 2024, SAR-JEPA, section 3.2).

It stands alone because a target is no matter of one method: it fits any that predicts hidden patches of radar images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core.tokens.extent import reflected


@torch.no_grad()
def ratio_gradient(
    x: Tensor, valid: Tensor, radii: Sequence[int], *, log: bool = False, eps: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Size of the gradient by ratio at every cell and scale: (B, C * S, H, W), channel by channel, and its validity, alike.

    x      (B, C, H, W) power or amplitude, a value below 0 counts as 0; with `log` its natural logarithm (dB * ln(10) / 10)
    valid  (B, 1 | C, H, W) bool; what is invalid may hold anything
    radii  r of each of the S scales: a window is 2r + 1 cells wide, and each of its halves holds the middle line
    eps    added to x, as a share of the channel's mean in the item, so that a scale of x changes nothing

    A half's mean m gives gx = ln(m_left / m_right), gy = ln(m_up / m_down) and sqrt(gx^2 + gy^2). Speckle multiplies, so
    the spread of a ratio is one on bright and on dark ground (Touzi et al. 1988). With `log` the means are of logarithms
    and are subtracted. The item, the smallest box around what is valid, is reflected at its edges; a target is valid where
    all of its window is. At least fp32, outside autocast.
    """
    with torch.autocast(x.device.type, enabled=False):
        x = torch.where(valid, x.to(torch.promote_types(x.dtype, torch.float32)), 0)
        if not log:
            x = x.clamp_min(0)
            count = valid.expand_as(x).sum((2, 3), keepdim=True).clamp_min(1)
            x = x + eps * x.sum((2, 3), keepdim=True) / count
        far = max(radii)
        wide, seen = reflected(x, valid, far)
        scales = [_gradient(_within(wide, far - r), r, log) for r in radii]
        there = torch.stack([_whole(_within(seen, far - r), r) & valid for r in radii], 2)
        return torch.stack(scales, 2).flatten(1, 2), there.expand(-1, x.shape[1], -1, -1, -1).flatten(1, 2)


def _within(x: Tensor, cut: int) -> Tensor:
    """Without the `cut` outermost cells."""
    return x[..., cut : x.shape[-2] - cut, cut : x.shape[-1] - cut]


def _gradient(x: Tensor, r: int, log: bool) -> Tensor:
    """(B, C, H + 2r, W + 2r) -> (B, C, H, W). A box mean is a mean of means along one axis and then the other."""

    def halves(along: Tensor, axis: int) -> Tensor:
        kernel = (1, r + 1) if axis == 3 else (r + 1, 1)
        m = F.avg_pool2d(along, kernel, stride=1)
        m = m if log else m.clamp_min(torch.finfo(m.dtype).tiny).log()
        n = m.shape[axis] - r
        return m.narrow(axis, 0, n) - m.narrow(axis, r, n)

    gx = halves(F.avg_pool2d(x, (2 * r + 1, 1), stride=1), 3)
    gy = halves(F.avg_pool2d(x, (1, 2 * r + 1), stride=1), 2)
    return torch.hypot(gx, gy)


def _whole(valid: Tensor, r: int) -> Tensor:
    """Whether all of the window around each cell is valid."""
    hole = F.max_pool2d((~valid).float(), (2 * r + 1, 1), stride=1)
    return F.max_pool2d(hole, (1, 2 * r + 1), stride=1) == 0
