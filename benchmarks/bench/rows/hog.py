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


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    size, side = (2, 32) if tiny else (32 if device.type == "cpu" else 256, 224)
    x = images(size, side, device)
    arrays = [image.numpy() for image in x.cpu()]

    def ours() -> Tensor:
        found, _ = hog(x, None, (CELL, CELL), convention="skimage")
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return found

    def peer() -> list[NDArray[np.float32]]:
        return [theirs(a, 9, (CELL, CELL), (1, 1), "L2", feature_vector=False, channel_axis=0) for a in arrays]

    wanted = torch.from_numpy(np.stack(peer()))[:, :, :, 0, 0].permute(0, 3, 1, 2)
    other = (ours().cpu()[:, 0] - wanted).abs() > 1e-5
    # in single precision a gradient on the edge of two bins may fall on either side of it
    assert other.float().mean() < 1e-4, f"{other.sum()} of {other.numel()} numbers are not scikit-image's"
    return ours, peer


ROW = Row(
    what="The histograms of oriented gradients of 32 RGB images of 224 px on a CPU, 256 on a GPU, in fp32: 9 bins, cells of 8 "
    "pixels, each by its own norm.",
    peer_name="scikit-image's hog, image by image on a CPU",
    like_for_like=True,
    difference="The numbers are compared before they are timed. Ours takes the batch at once and uses both cores.",
    target=1.0,
    make=pair,
)
