"""Assignments that share items equally among prototypes."""

from __future__ import annotations

import torch

from bench import peers
from bench.row import Row, Work
from unlabeled.core.losses.sinkhorn import sinkhorn

TEMPERATURE, ITERATIONS = 0.05, 3


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    rows, prototypes = (64, 30) if tiny else (4096, 3000)
    g = torch.Generator().manual_seed(0)
    z, c = (torch.nn.functional.normalize(torch.randn(n, 128, generator=g), dim=1) for n in (rows, prototypes))
    scores = (z @ c.T).to(device)

    def ours() -> object:
        return sinkhorn(scores, TEMPERATURE, ITERATIONS)

    def peer() -> object:
        return peers.sinkhorn(scores, ITERATIONS, TEMPERATURE)

    torch.testing.assert_close(ours(), peer(), rtol=1e-4, atol=1e-6)
    return ours, peer


ROW = Row(
    what="The assignments of 4,096 items to 3,000 prototypes by their cosines, in fp32: 3 iterations of Sinkhorn and Knopp, "
    "temperature 0.05.",
    peer_name="lightly's sinkhorn",
    like_for_like=True,
    difference="The numbers are compared before they are timed. Ours scales two vectors and not the matrix, and takes every "
    "row relative to its maximum.",
    target=0.85,
    make=pair,
)
