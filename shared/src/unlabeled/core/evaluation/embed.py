"""Embeddings of items with a frozen encoder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.core.contracts import InputSpec
from unlabeled.core.data.items import Items
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.plans import InOrder
from unlabeled.core.nn.base import Encoder


@dataclass(frozen=True)
class Embeddings:
    """values (N, P) float32 of the items item (N,), cut from the records record (N,).

    failed  item -> reason: items that could not be read; they are in none of the arrays.
    """

    values: NDArray[np.float32]
    item: NDArray[np.int64]
    record: NDArray[np.int64]
    failed: Mapping[int, str]


def embed(encoder: Encoder, items: Items, specs: Mapping[str, InputSpec], batch_size: int = 256) -> Embeddings:
    """Pooled features of every item, in order, in evaluation mode, on the encoder's device."""
    device = next(encoder.parameters()).device
    loader = Loader(items, specs, InOrder(len(items), batch_size), seed=0)
    values, item = [], []
    training = encoder.training
    encoder.eval()
    with torch.inference_mode():
        for _, batch in loader.batches(0, loader.plan.steps(0)):
            pooled = encoder(batch.to(device).ready().inputs).pooled.float().cpu()
            there = batch.weight > 0
            values.append(pooled[there].numpy())
            item.append(batch.index[there].numpy())
    encoder.train(training)
    at = np.concatenate(item)
    return Embeddings(np.concatenate(values), at, items.record[at], {i: why for i, (_, why) in loader.failures.items()})
