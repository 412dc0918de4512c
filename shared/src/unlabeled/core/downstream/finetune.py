"""Fine-tune a whole encoder for classification, the same way for every start."""

from __future__ import annotations

import copy
from collections.abc import Callable, Set
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from unlabeled.core.build import seeded
from unlabeled.core.contracts import BadInput, RunFailed
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.data.loading import Loader, Source
from unlabeled.core.data.plans import InOrder
from unlabeled.core.nn.base import Encoder
from unlabeled.core.schedules import warmup_cosine
from unlabeled.core.streams import Draw, rng

BATCH = 64
WEIGHT_DECAY = 0.01

UNLABELLED = -1


@dataclass(frozen=True)
class Balanced:
    """A plan of one batch per epoch, with every class equally often (the remainder by lot).

    label (N,) per item, -1 for items that are never drawn. Within a class no item comes twice before all came once.
    """

    label: NDArray[np.int64]
    batch_size: int

    def __call__(self, seed: int, epoch: int, without: Set[int] = frozenset()) -> list[NDArray[np.int64]]:
        draw = rng(seed, "balanced", epoch)
        usable = self.label.copy()
        usable[list(without)] = UNLABELLED
        present = draw.permutation(np.unique(usable[usable != UNLABELLED]))
        if len(present) == 0:
            return []
        share = np.full(len(present), self.batch_size // len(present))
        share[: self.batch_size % len(present)] += 1
        ids = [np.resize(draw.permutation(np.flatnonzero(usable == c)), n) for c, n in zip(present, share, strict=True)]
        return [np.concatenate(ids)]

    def steps(self, epoch: int, without: Set[int] = frozenset()) -> int:
        return int(any(i not in without for i in np.flatnonzero(self.label != UNLABELLED)))


class Classifier(nn.Module):
    """encoder, layer norm, linear; the norm lets starts of another output scale share one grid of learning rates."""

    def __init__(self, encoder: Encoder, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Sequential(nn.LayerNorm(encoder.width), nn.Linear(encoder.width, classes))

    def forward(self, batch: Batch) -> Tensor:
        """Log-probabilities (B, K)."""
        return F.log_softmax(self.head(self.encoder(batch.inputs).pooled).float(), dim=-1)


def finetune(
    encoder: Encoder,
    items: Source,
    labels: NDArray[np.int64],
    test: Source,
    classes: int,
    *,
    lr: float,
    steps: int,
    seed: int,
    views: Callable[[Batch, Draw], Batch] | None = None,
) -> NDArray[np.float64]:
    """Train a copy of `encoder` and a new head on the labelled `items`; log-probabilities (M, K) of the items `test`.

    labels: (N,) class per item, -1 unlabelled. AdamW with weight decay 0.01 on all weights, 10 % linear warm-up, cosine to
    0, batches of 64 with equal classes. A pure function of its arguments. Raises RunFailed where the loss is not finite,
    BadInput where an item cannot be read.
    """
    device = next(encoder.parameters()).device
    with seeded(seed, "finetune"):
        model = Classifier(copy.deepcopy(encoder), classes).to(device).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=WEIGHT_DECAY)
        target = torch.as_tensor(labels, device=device)
        loader = Loader(items, encoder.specs, Balanced(labels, BATCH), seed)
        for step, (epoch, batch) in enumerate(loader.batches(0, steps)):
            if batch.failed:
                raise BadInput(next(iter(batch.failed.values())))
            batch = batch.to(device)
            if views is not None:
                # an item drawn twice for one batch gets two views: its place in the batch is part of the key
                slot = batch.index * batch.size + torch.arange(batch.size, device=device)
                batch = views(batch, Draw(seed, epoch, slot, "finetune"))
            for group in optimiser.param_groups:
                group["lr"] = warmup_cosine(step, steps, max(1, steps // 10), lr)
            loss = F.nll_loss(model(batch), target[batch.index], reduction="none")
            loss = (loss * batch.weight).sum() / batch.weight.sum().clamp_min(1)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    # one look after the loop: a non-finite step leaves non-finite weights behind
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise RunFailed(f"fine-tuning with learning rate {lr:g} diverged; take it out of study.lr_grid")
    return predict(model, test)


def predict(model: Classifier, items: Source, batch_size: int = 256) -> NDArray[np.float64]:
    """Log-probabilities (M, K) of every item, in order. Raises BadInput where one cannot be read."""
    device = next(model.parameters()).device
    loader = Loader(items, model.encoder.specs, InOrder(len(items), batch_size), seed=0)
    out = []
    model.eval()
    with torch.inference_mode():
        for _, batch in loader.batches(0, loader.plan.steps(0)):
            if batch.failed:
                raise BadInput(next(iter(batch.failed.values())))
            out.append(model(batch.to(device)).cpu().double().numpy())
    return np.concatenate(out)
