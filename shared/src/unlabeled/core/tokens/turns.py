"""Quarter turns of images, each within its own extent (Gidaris et al. 2018, Unsupervised Representation Learning by Predicting
Image Rotations).

It stands alone because any method may ask which way up an item was, and a view may turn one.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.tokens.extent import extent


def turned(x: Dense, quarter: Tensor) -> tuple[Dense, Tensor]:
    """Images (B, C, H, W) turned by quarter (B,) int64 in [0, 4) times 90 degrees, as `torch.rot90`; and (B,) bool, which were.

    An image is turned within the smallest box around what is valid, so that padding changes nothing. One whose box is no
    square, or that holds nothing, cannot be turned in place and stays as it is.
    """
    (top, bottom), (left, right) = extent(x.valid)
    able = (bottom - top == right - left) & x.valid.flatten(1).any(1)
    last, turns = (bottom - top)[:, None, None], torch.where(able, quarter, 0)[:, None, None]
    height, width = x.values.shape[2:]
    i = torch.arange(height, device=quarter.device)[:, None] - top[:, None, None]
    j = torch.arange(width, device=quarter.device) - left[:, None, None]
    i, j = i + torch.zeros_like(j), j + torch.zeros_like(i)
    inside = (i >= 0) & (j >= 0) & (i <= last) & (j <= last) & able[:, None, None]
    row = torch.where(turns == 1, j, torch.where(turns == 2, last - i, torch.where(turns == 3, last - j, i)))
    column = torch.where(turns == 1, last - i, torch.where(turns == 2, last - j, torch.where(turns == 3, i, j)))
    row, column = torch.where(inside, row, i), torch.where(inside, column, j)
    at = ((row + top[:, None, None]) * width + column + left[:, None, None]).flatten(1)[:, None]

    def moved(t: Tensor) -> Tensor:
        return t.flatten(2).take_along_dim(at, 2).reshape(t.shape)

    return replace(x, values=moved(x.values), valid=moved(x.valid)), able
