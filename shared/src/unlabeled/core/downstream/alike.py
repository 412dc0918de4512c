"""Fine-tuning for classes of items or of cells, the same way for every start: what a study compares starts by."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.core.build import seeded
from unlabeled.core.contracts import RunFailed
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.data.loading import Loader, Source
from unlabeled.core.data.plans import InOrder
from unlabeled.core.downstream.batches import Balanced
from unlabeled.core.downstream.kinds.classify import cross_entropy
from unlabeled.core.downstream.kinds.segment import cell_cross_entropy
from unlabeled.core.downstream.loop import Target, Views, moved, tolerated, train
from unlabeled.core.downstream.model import Model
from unlabeled.core.nn.base import Encoder

BATCH = 64
WEIGHT_DECAY = 0.01


def tuned(
    encoder: Encoder,
    items: Source,
    labels: NDArray[np.int64],
    test: Source,
    classes: int,
    *,
    lr: float,
    steps: int,
    seed: int,
    views: Views | None = None,
    batch: int = BATCH,
) -> NDArray[np.float64]:
    """Train a copy of `encoder` and a new head on the labelled `items`; log-probabilities (M, K) of the items `test`.

    The rest is as in `fitted`.
    """
    model = fitted(encoder, items, labels, classes, lr=lr, steps=steps, seed=seed, views=views, batch=batch)
    return log_probabilities(model, test)


def fitted(
    encoder: Encoder,
    items: Source,
    labels: NDArray[np.int64],
    classes: int,
    *,
    lr: float,
    steps: int,
    seed: int,
    views: Views | None = None,
    batch: int = BATCH,
    cells: Target | None = None,
) -> Model:
    """A copy of `encoder` and a new head, trained on the labelled `items`.

    labels  (N,) class per item, -1 unlabelled: what the batches are balanced by
    cells   the classes (B, *S) of a batch's cells, for a model that segments; None: one that classifies items by `labels`

    AdamW with weight decay 0.01 on all weights, 10 % linear warm-up, cosine to 0, batches with equal classes. A pure
    function of its arguments. Raises RunFailed where the loss is not finite, BadInput where an item cannot be read.
    """
    device = next(encoder.parameters()).device
    target = torch.as_tensor(labels)

    def wanted(batch: Batch) -> torch.Tensor:
        return target[batch.index]

    with seeded(seed, "finetune"):
        kind = "classification" if cells is None else "segmentation"
        model = Model(copy.deepcopy(encoder), kind, classes).to(device)
        groups = [{"params": list(model.parameters()), "lr": lr, "weight_decay": WEIGHT_DECAY}]
        loader = Loader(items, encoder.specs, Balanced(labels, batch), seed)
        try:
            train(
                model,
                loader,
                cells or wanted,
                cell_cross_entropy if cells else cross_entropy,
                groups,
                steps=steps,
                warmup=max(1, steps // 10),
                seed=seed,
                views=views,
            )
        except RunFailed:
            raise RunFailed(f"fine-tuning with learning rate {lr:g} diverged; take it out of study.lr_grid") from None
    return model


@torch.inference_mode()
def log_probabilities(model: Model, items: Source, batch_size: int = 256) -> NDArray[np.float64]:
    """(M, K) of every item, in order. Raises BadInput where one cannot be read."""
    device = next(model.parameters()).device
    loader = Loader(items, model.encoder.specs, InOrder(len(items), batch_size), seed=0)
    out = []
    model.eval()
    for _, batch in loader.batches(0, loader.plan.steps(0)):
        tolerated(loader, 0.0)
        out.append(model(moved(batch, device).inputs).log_softmax(-1).cpu().double().numpy())
    return np.concatenate(out)
