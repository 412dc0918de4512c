"""Causal order: which tokens come before which, by clusters of a grid in raster order (Ren et al. 2024, ARM, section 3.2).

Encoders and decoders that must not look ahead share it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# places along one axis; three axes fit into 60 bits
_PLACES = 1 << 20


def cluster_order(position: Tensor, sizes: Sequence[int]) -> Tensor:
    """Number of the cluster that each token lies in, (B, L) int64; it grows in raster order and is not dense.

    position  (B, L, d) in patches, from 0 on
    sizes     patches along each axis of a cluster, so that (1, 1) makes every token a cluster of its own
    """
    order = torch.zeros(position.shape[:2], dtype=torch.int64, device=position.device)
    for at in clusters(position, sizes).unbind(-1):
        order = order * _PLACES + at
    return order


def clusters(position: Tensor, sizes: Sequence[int]) -> Tensor:
    """Number (B, L, d) int64, along each axis, of the cluster of `sizes` patches that each token lies in."""
    # on a grid a position is a whole number, half a patch off the edges; a packed token at a multiple of the scale lies
    # on one, and a thousandth keeps rounding from putting it before
    along = [(x + 0.501) / size for x, size in zip(position.unbind(-1), sizes, strict=True)]
    return torch.stack(along, -1).floor().long()


def attends(order: Tensor, valid: Tensor) -> Tensor:
    """(B, 1, L, L) bool: whether the token of a row attends to that of a column, which comes no later and is valid.

    order (B, L) int64, valid (B, L) bool. Every token attends to itself, since a softmax over nothing is NaN.
    """
    itself = torch.eye(order.shape[1], dtype=torch.bool, device=order.device)
    seen = (order[:, None, :] <= order[:, :, None]) & valid[:, None, :]
    return (seen | itself)[:, None]


def before(order: Tensor, valid: Tensor) -> Tensor:
    """(B, L, L) bool: whether the token of a column lies in an earlier cluster than that of the row, and is valid."""
    return (order[:, None, :] < order[:, :, None]) & valid[:, None, :]
