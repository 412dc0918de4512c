"""Histograms of oriented gradients on the device (Dalal and Triggs 2005; Wei et al. 2022, MaskFeat, section 3.2).

It stands alone because it is a feature of images of its own, equal to scikit-image's, and not MaskFeat's alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core.targets.gradients import gradients


@torch.no_grad()
def hog(
    x: Tensor,
    valid: Tensor | None,
    cell: Sequence[int] = (8, 8),
    *,
    bins: int = 9,
    convention: Literal["maskfeat", "skimage"] = "maskfeat",
) -> tuple[Tensor, Tensor]:
    """Histograms (B, C', bins, h, w) of the cells of images, and which of them are valid (B, C', h, w) bool.

    x      (B, C, H, W), in any unit: a scale and an offset change nothing, nor does the sign
    valid  (B, 1 | C, H, W) bool, what is invalid may hold anything; None: all is, which is faster
    cell   pixels of a cell along y and x; H and W are filled up to whole cells with invalid pixels
    bins   of the unsigned angle, hard, each pixel with its gradient's size as weight; 255 at most

    maskfeat  C' = C. Sobel; bin k holds the angles from k pi / bins on, counted from the direction of y (dx = 0) towards
              that of x; each histogram by its own L2 norm. No block normalisation.
    skimage   C' = 1. Central differences of the channel with the largest gradient; angles counted from the direction of x
              towards that of y; divided by sqrt(|h|^2 + 1e-10), h a mean: `skimage.feature.hog` with
              `cells_per_block=(1, 1), block_norm="L2", channel_axis=0`, at the edges too.

    As a quarter turn is 9 / 2 bins, the bins of the two conventions are offset by half a bin, and no permutation brings
    one to the other. A pixel counts where its gradient is valid (see `gradients`), and a cell is valid where any pixel
    counts; a flat one is all 0. At least fp32, outside autocast, and the same at every run: nothing is scattered.
    """
    found, there = gradients(x, valid, "sobel" if convention == "maskfeat" else "central")
    with torch.autocast(x.device.type, enabled=False):
        dy, dx = found.unbind(2)
        size = torch.hypot(dy, dx)
        size = size if valid is None else torch.where(there, size, 0)
        if convention == "skimage":
            size, strongest = size.max(1, keepdim=True)
            dy, dx, there = dy.gather(1, strongest), dx.gather(1, strongest), there.any(1, keepdim=True)
        angle = _unsigned(dx, dy) if convention == "maskfeat" else _unsigned(dy, dx)
        number = (angle * (bins / math.pi)).clamp_max(bins - 1).to(torch.uint8)
        far = [n for c, s in zip(reversed(cell), reversed(x.shape[2:]), strict=True) for n in (0, -s % c)]
        size, number = F.pad(size, far), F.pad(number, far)
        counts = [F.avg_pool2d(torch.where(number == k, size, 0), tuple(cell)) for k in range(bins)]
        histograms = torch.stack(counts, 2)
        counted = F.max_pool2d(F.pad(there, far).to(size.dtype), tuple(cell)) > 0
        if convention == "maskfeat":
            histograms = F.normalize(histograms, dim=2)
        else:
            histograms = histograms * torch.rsqrt(histograms.square().sum(2, keepdim=True) + 1e-10)
        return histograms, counted.expand(size.shape[0], size.shape[1], *counted.shape[2:])


def _unsigned(a: Tensor, b: Tensor) -> Tensor:
    """atan2(a, b) modulo pi, in [0, pi]; (a, b) and (-a, -b) give the same to the bit."""
    back = (a < 0) | ((a == 0) & (b < 0))
    return torch.atan2(torch.where(back, -a, a), torch.where(back, -b, b))
