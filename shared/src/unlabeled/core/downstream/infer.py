"""From a model and items to one prediction per record."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unlabeled.core.data.items import Items
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.plans import InOrder
from unlabeled.core.downstream.loop import moved
from unlabeled.core.downstream.model import Model

Prediction = NDArray[np.floating[Any]]


@torch.inference_mode()
def predictions(
    model: Model, items: Items, failed: MutableMapping[int, str], batch_size: int = 64
) -> Iterator[tuple[int, Prediction]]:
    """(record, prediction) of every record that the items are cut from, in their order; items lie record by record.

    classification  probabilities (K,): the windows' geometric mean, normalised
    multilabel      probabilities (K,), each of its own: the windows' mean
    regression      value (1,): their mean
    segmentation    probabilities (K, *S): every window's, blended with weights that fall linearly from its middle to its
                    edges, so that no window's edge shows
    A record of which an item cannot be read gives nothing and stands in `failed` with its reason.
    """
    device = next(model.parameters()).device
    loader = Loader(items, model.encoder.specs, InOrder(len(items), batch_size), seed=0)
    record, whole = -1, _Whole(model.kind)
    training = model.training
    for _, batch in loader.batches(0, loader.plan.steps(0)):
        model.eval()  # whoever takes a prediction may train in between
        out = model(moved(batch, device).inputs).cpu().double()
        model.train(training)
        if model.kind == "multilabel":
            out = out.sigmoid()
        elif model.kind != "regression":
            out = out.log_softmax(1)
        for row, item in zip(out.numpy(), batch.index.tolist(), strict=True):
            of = int(items.record[item])
            if of != record and record not in (-1, *failed):
                yield record, whole.value()
            if of != record:
                record, whole = of, _Whole(model.kind)
            if item in batch.failed:
                failed.setdefault(of, batch.failed[item])
            elif of not in failed:
                whole.add(row, items, item)
    if record not in (-1, *failed):
        yield record, whole.value()


class _Whole:
    """One record's prediction, from those of its windows."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.total: Prediction = np.zeros(())
        self.weight = np.zeros(())

    def add(self, row: Prediction, items: Items, item: int) -> None:
        if self.kind != "segmentation":
            self.total = self.total + row
            self.weight = self.weight + 1
            return
        grid = next(iter(items.corpus.record(int(items.record[item])).inputs.values())).shape
        if self.total.ndim == 0:
            self.total, self.weight = np.zeros((len(row), *grid)), np.zeros(grid)
        region = items.region(item) or tuple(slice(0, n) for n in grid)
        at = tuple(slice(s.start, min(s.stop, n)) for s, n in zip(region, grid, strict=True))
        size = tuple(s.stop - s.start for s in at)
        weight = hat(size)
        # an item shorter than the longest of its batch was padded at its end
        self.total[(slice(None), *at)] += np.exp(row[(slice(None), *map(slice, size))]) * weight
        self.weight[at] += weight

    def value(self) -> Prediction:
        mean = self.total / np.maximum(self.weight, np.finfo(float).tiny)
        if self.kind != "classification":
            return np.asarray(mean)
        p = np.exp(mean - mean.max())
        return np.asarray(p / p.sum())


def hat(shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Product over axes of min(i + 1/2, n - i - 1/2), scaled to a mean of about 1; positive everywhere."""
    weight = np.ones(())
    for n in shape:
        i = np.arange(n) + 0.5
        weight = np.multiply.outer(weight, np.minimum(i, n - i) * 4 / n)
    return np.asarray(weight)
