"""The training loop of every downstream task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from unlabeled.core.contracts import BadInput, RunFailed
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.data.loading import Loader
from unlabeled.core.downstream.model import Model
from unlabeled.core.schedules import warmup_cosine
from unlabeled.core.streams import Draw

Target = Callable[[Batch], Tensor]  # of a batch on the host
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # output, target, weight (B,) -> scalar
Views = Callable[[Batch, Draw], Batch]


def train(
    model: Model,
    loader: Loader,
    target: Target,
    loss: Loss,
    groups: Sequence[Mapping[str, Any]],
    *,
    steps: int,
    warmup: int,
    seed: int,
    views: Views | None = None,
    max_bad: float = 0.0,
    after: Callable[[int], None] | None = None,
) -> None:
    """AdamW for `steps` steps in place; every group's learning rate is its peak: linear warm-up, then a cosine to 0.

    after(done) is called after every step. max_bad: share of the items that may fail to load (they weigh nothing).
    Raises BadInput above it, RunFailed where weights are no longer finite.
    """
    device = next(model.parameters()).device
    optimiser = torch.optim.AdamW([dict(g) for g in groups])
    peaks = [g["lr"] for g in groups]
    for step, (epoch, batch) in enumerate(loader.batches(0, steps)):
        tolerated(loader, max_bad)
        wanted = target(batch).to(device)
        batch = moved(batch, device)
        if views is not None:
            # an item drawn twice for one batch gets two views: its place in the batch is part of the key
            slot = batch.index * batch.size + torch.arange(batch.size, device=device)
            batch = views(batch, Draw(seed, epoch, slot, "finetune"))
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = warmup_cosine(step, steps, warmup, peak)
        value = loss(model.train()(batch.inputs), wanted, batch.weight)
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        if after is not None:
            after(step + 1)
    # one look after the loop: a non-finite step leaves non-finite weights behind
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise RunFailed(f"fine-tuning with learning rate {max(peaks):g} diverged; set it lower")


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on the device: the one place where downstream tasks and pretraining must do the same."""
    return batch.to(device, non_blocking=True).ready()


def tolerated(loader: Loader, max_bad: float) -> None:
    """Raises BadInput, with the first reason, where more than this share of the items failed."""
    if len(loader.failures) > max_bad * loader.items_total:
        raise BadInput(next(iter(loader.failures.values()))[1])
