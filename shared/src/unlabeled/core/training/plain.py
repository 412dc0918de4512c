"""The loop without Lightning, for one process or many under torchrun: the oracle of the other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from unlabeled.core import ranks
from unlabeled.core.training.session import Session


@contextlib.contextmanager
def group(kind: str) -> Iterator[torch.device]:
    """This rank's device of the `kind` "cpu" or "cuda", within torchrun's process group where there is one."""
    own = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    device = torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    if own:
        dist.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield device
    finally:
        if own:
            dist.destroy_process_group()


@torch.no_grad()
def same_start(module: nn.Module) -> None:
    """Every rank starts from the weights and buffers of rank 0."""
    if ranks.world() > 1:
        for t in [*module.parameters(), *module.buffers()]:
            dist.broadcast(t, 0)


@torch.no_grad()
def average_gradients(module: nn.Module) -> None:
    """Gradients become their mean over ranks, by one reduction of all of them."""
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    if ranks.world() > 1 and gradients:
        flat = torch.cat([g.reshape(-1) for g in gradients])
        dist.all_reduce(flat)
        flat /= ranks.world()
        for g, part in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            g.copy_(part.view_as(g))


def drive(session: Session, kind: str) -> None:
    """Run the session to its end on devices of the `kind` "cpu" or "cuda"."""

    def backward(loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]
        average_gradients(session.method)

    with group(kind) as device, contextlib.closing(session):
        session.method.to(device)
        same_start(session.method)
        session.begin(device)
        for epoch, batch in session.batches():
            if not session.advance(epoch, batch, backward, session.step.optimiser.step):
                break
