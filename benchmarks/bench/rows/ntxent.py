"""The loss of SimCLR and its gradient."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench import peers
from bench.row import Row, Work
from unlabeled.core.losses.contrastive import nt_xent

TEMPERATURE = 0.5


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    size = 32 if tiny else 4096
    g = torch.Generator().manual_seed(0)
    views = [torch.randn(size, 128, generator=g).to(device).requires_grad_() for _ in range(2)]

    def graded(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], list[Tensor]]:
        def work() -> list[Tensor]:
            value = loss(*views)
            return [value.detach(), *torch.autograd.grad(value, views)]

        return work

    ours, peer = graded(lambda a, b: nt_xent(a, b, TEMPERATURE)), graded(peers.NTXentLoss(TEMPERATURE))
    torch.testing.assert_close(ours(), peer(), rtol=1e-4, atol=1e-6)
    return ours, peer


ROW = Row(
    what="NT-Xent and its gradient in fp32 for two views of 4,096 items in 128 dimensions.",
    peer_name="lightly's NTXentLoss",
    like_for_like=True,
    difference="Numbers and gradients are compared before they are timed. Both compute the cosines of all pairs; ours in one "
    "matrix, in which an item itself is masked and not cut out.",
    target=0.85,
    make=pair,
)
