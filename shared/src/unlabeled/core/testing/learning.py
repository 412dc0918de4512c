"""Does a method learn? Images in which what is hidden follows from what is seen, and a short descent."""

from __future__ import annotations

from dataclasses import replace

import torch

from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.base import Context, Method
from unlabeled.core.testing.method import CTX


def stripes(items: int = 16) -> Batch:
    """`items` float32 images "x" of 2 equal channels and 16 x 16 pixels: a wave along the width, of a random phase."""
    phase = 6.28 * torch.rand(items, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    values = torch.sin(torch.arange(16.0) * 1.1 + phase).expand(items, 2, 16, 16)
    valid, ids = torch.ones(items, 1, 16, 16, dtype=torch.bool), torch.arange(items)
    x = Dense(values, valid, torch.ones(items, 2))
    return Batch({"x": x}, ids, ids, ids, torch.ones(items), {})


def descent(
    method: Method, batch: Batch, steps: int, lr: float = 1e-2, redraw: bool = True, ctx: Context = CTX
) -> list[float]:
    """The losses of `steps` steps of AdamW on one batch. `after_step` is not called, so a teacher stands still.

    redraw  every step is an epoch with masks and views of its own; else those of `ctx` stay
    """
    optimiser = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=lr)
    losses: list[float] = []
    for epoch in range(steps):
        if redraw:
            ctx = replace(ctx, epoch=epoch)
        if redraw or not losses:
            cut = method.on_batch(batch, ctx)
        loss = method.step(cut, ctx)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses
