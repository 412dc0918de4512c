"""The nearest of many codes."""

from __future__ import annotations

import torch

from bench.row import Row, Work
from unlabeled.core.targets.codebooks.nearest import nearest


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    rows, size, width = (64, 128, 16) if tiny else (4096 if device.type == "cpu" else 65_536, 8192, 256)
    g = torch.Generator().manual_seed(0)
    x, codes = (torch.randn(n, width, generator=g).to(device) for n in (rows, size))

    return lambda: nearest(x, codes), lambda: torch.cdist(x, codes).argmin(1)


ROW = Row(
    what="The nearest of 8,192 codes of width 256 for each of many vectors in fp32: 4,096 on a CPU, 65,536 on a GPU.",
    peer_name="torch.cdist and argmin",
    like_for_like=True,
    difference="Both multiply all vectors with all codes. Ours leaves out the vectors' lengths and the root, which change no "
    "answer, and holds the scores of some vectors at a time.",
    target=0.75,
    make=pair,
)
