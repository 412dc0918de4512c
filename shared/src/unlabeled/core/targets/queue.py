"""A queue of rows that earlier steps saw (He et al. 2020, MoCo, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlabeled.core import ranks


class Queue(nn.Module):
    """The last `size` rows that were put in, from all ranks in rank order, so that it is the same on every rank.

    It starts empty. All of its state is buffers of a fixed shape, and nothing waits for the device.

    rows   (Q, D), 0 where there is none yet
    valid  (Q,) bool, where there is one
    place  0-d int64, where the next row goes, in place of the oldest
    """

    rows: Tensor
    valid: Tensor
    place: Tensor

    def __init__(self, size: int, width: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, width, dtype=dtype))
        self.register_buffer("valid", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def put(self, rows: Tensor, weight: Tensor) -> None:
        """Put in rows (B, D); those of weight (B,) 0, which may hold anything, do not enter and push out none.

        Of more rows than it has places the last ones stay.
        """
        size, present = len(self.rows), ranks.gather(weight) > 0
        # rows that do not enter come first and are written over themselves, just before the place where the others begin
        order = present.int().argsort(stable=True)[-size:]
        present, given = present[order], ranks.gather(rows)[order]
        end = self.place + present.sum()
        at = (end + torch.arange(-len(order), 0, device=end.device)) % size
        self.rows[at] = torch.where(present[:, None], given.to(self.rows.dtype), self.rows[at])
        self.valid[at] = self.valid[at] | present
        self.place.copy_(end % size)
