"""Which entry of a codebook is nearest."""

from __future__ import annotations

import torch
from torch import Tensor

# scores that are held at a time: those of a CPU stay in its cache, a GPU wants few launches
CHUNK = {"cpu": 1 << 20}
CHUNK_ELSEWHERE = 1 << 24


def nearest(x: Tensor, entries: Tensor) -> Tensor:
    """Number of the entry at the least Euclidean distance: x (..., D), entries (K, D) -> (...) int64; at least fp32.

    |x - c|^2 = |x|^2 - 2 (x.c - |c|^2 / 2), and |x| is the same for all entries: one product and its largest element, of
    some rows at a time. Of equal ones the lowest number. No gradient.
    """
    return _largest(x, entries, -0.5)


def most_alike(x: Tensor, entries: Tensor) -> Tensor:
    """Number of the entry with the largest x.c, as `nearest`. Of entries of one length it is the nearest.

    A zero x is equally near to all of them and gets 0: here no rounding of |c|^2 decides.
    """
    return _largest(x, entries, 0.0)


@torch.no_grad()
def _largest(x: Tensor, entries: Tensor, lengths: float) -> Tensor:
    """argmax over k of x.c_k + lengths * |c_k|^2."""
    wide = torch.promote_types(torch.promote_types(x.dtype, entries.dtype), torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        entries = entries.to(wide)
        bias = lengths * entries.square().sum(1)
        rows = max(1, CHUNK.get(x.device.type, CHUNK_ELSEWHERE) // len(entries))
        # `max` is twice as fast as `argmax` on a CPU, and as exact about the first of equals
        parts = torch.split(x.reshape(-1, x.shape[-1]), rows)
        ids = [torch.addmm(bias, part.to(wide), entries.T).max(1).indices for part in parts]
        return torch.cat(ids).reshape(x.shape[:-1])
