"""Histograms of oriented gradients of a batch of images."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.feature import hog as theirs
from torch import Tensor

from bench.ours import images
from bench.row import Row, Work
from unlabeled.core.targets.hog import hog

CELL = 8
TOLERANCE = 1e-5  # scikit-image adds in single precision


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    size, side = (2, 32) if tiny else (32 if device.type == "cpu" else 256, 224)
    x = images(size, side, device)
    valid = torch.ones(size, 1, side, side, dtype=torch.bool, device=device)
    arrays = [image.numpy() for image in x.cpu()]

    def ours() -> Tensor:
        found, _ = hog(x, valid, (CELL, CELL), convention="skimage")
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return found

    def peer() -> list[NDArray[np.float32]]:
        return [theirs(a, 9, (CELL, CELL), (1, 1), "L2", feature_vector=False, channel_axis=0) for a in arrays]

    same = torch.from_numpy(np.stack(peer()))[:, :, :, 0, 0].permute(0, 3, 1, 2)
    difference = (ours().cpu()[:, 0] - same).abs().amax((1, 2, 3))
    # where a gradient lies on the edge of two bins, single precision may put one pixel of a cell into the other one
    assert (difference < TOLERANCE).float().mean() >= 0.5 and difference.max() < 0.5
    return ours, peer
