"""Points: single cells of records, each seen through the window in which it is most central.

M points, d axes, N windows, K classes; cells are counted from the start of a record or of a window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch, BatchInput, Dense
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.items import Items
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.plans import InOrder
from unlabeled.core.downstream.loop import Target, moved, tolerated
from unlabeled.core.downstream.model import Model, patch_of
from unlabeled.core.evaluation.labels import UNLABELLED
from unlabeled.core.nn.base import Encoder
from unlabeled.core.tokens.patches import grid_of

Ids = NDArray[np.int64]
Maps = Callable[[Mapping[str, BatchInput]], Tensor]

BATCH = 64


@dataclass(frozen=True)
class Points:
    """Point m is the cell cell[m] (M, d) of the window items[item[m]] (M,)."""

    items: Items
    item: Ids
    cell: Ids

    def __len__(self) -> int:
        return len(self.item)

    def take(self, at: Ids) -> Points:
        """These points, and only the windows that hold one of them."""
        used, item = np.unique(self.item[at], return_inverse=True)
        return Points(self.items.take(used), item, self.cell[at])

    def read(
        self, specs: Mapping[str, InputSpec], device: torch.device, patch: Sequence[int], maps: Maps
    ) -> NDArray[np.float32]:
        """(M, P): what `maps`, from the inputs of a batch to (B, *grid, P), gives in the patch that each cell lies in.

        Windows are read once, batch by batch. Raises BadInput where one cannot be read.
        """
        loader = Loader(self.items, specs, InOrder(len(self.items), BATCH), seed=0)
        out = np.empty((len(self), 0), np.float32)
        for _, batch in loader.batches(0, loader.plan.steps(0)):
            tolerated(loader, 0.0)
            first, last = int(batch.index[0]), int(batch.index[-1])
            here = np.flatnonzero((self.item >= first) & (self.item <= last))
            at = (self.item[here] - first, *(self.cell[here] // np.array(patch)).T)
            values = maps(moved(batch, device).inputs)
            rows = values[tuple(torch.as_tensor(a, device=device) for a in at)].float().cpu().numpy()
            if not out.shape[1]:
                out = np.empty((len(self), rows.shape[1]), np.float32)
            out[here] = rows
        return out


def central(items: Items, record: Ids, at: Ids) -> Points:
    """Every cell at[m] (M, d) of record[m] in the window whose middle is nearest to it, of windows that `covering` gave."""
    item = np.empty(len(record), np.int64)
    for mine in by_record(record):
        first, stop = np.searchsorted(items.record, [record[mine[0]], record[mine[0]] + 1])
        axes = [np.unique(s) for s in items.start[first:stop].T]  # its windows are all combinations of these
        middles = [(s, s + (n - 1) / 2) for s, n in zip(axes, items.size or (), strict=True)]
        near = [np.abs(m - at[mine, a, None]).argmin(1) for a, (_, m) in enumerate(middles)]
        item[mine] = first + (np.ravel_multi_index(near, [len(s) for s in axes]) if axes else 0)
    cell = at - items.start[item] if items.size else at
    return Points(items, item, cell).take(np.arange(len(record)))


def around(corpus: Corpus, size: Sequence[int] | None, record: Ids, at: Ids) -> Items:
    """One window of `size` cells for each point, centred on it and shifted into its record; None: whole records."""
    of = record.astype(np.int32)
    if size is None:
        return Items(corpus, of, np.zeros((len(of), 0), np.int32), None)
    shape = np.array([corpus.shape(int(r)) for r in record])
    start = np.clip(at - np.array(size) // 2, 0, np.maximum(shape - np.array(size), 0))
    return Items(corpus, of, start.astype(np.int32), tuple(size))


def by_record(record: Ids) -> Iterator[Ids]:
    """Numbers of the points of each record, record by record."""
    order = np.argsort(record, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(record[order])) + 1)


def drawn(items: Items, record: Ids, at: Ids, label: Ids) -> Target:
    """What a batch of `items` should give: the label (M,) of every point inside of a window, -1 at all other cells."""
    of = {int(record[mine[0]]): mine for mine in by_record(record)}

    def target(batch: Batch) -> Tensor:
        (x,) = batch.inputs.values()
        assert isinstance(x, Dense)
        shape = x.values.shape[2:]
        wanted = np.full((batch.size, *shape), UNLABELLED)
        for row, item in zip(wanted, batch.index.tolist(), strict=True):
            mine = of[int(items.record[item])]
            cell = at[mine] - items.start[item] if items.size else at[mine]
            inside = ((cell >= 0) & (cell < np.array(shape))).all(1)
            row[tuple(cell[inside].T)] = label[mine[inside]]
        return torch.as_tensor(wanted)

    return target


@torch.inference_mode()
def tokens_at(encoder: Encoder, points: Points) -> NDArray[np.float32]:
    """(M, D) token of each point's cell, in evaluation mode, on the encoder's device.

    Raises RequestError where the encoder's tokens lie on no grid.
    """
    patch = patch_of(encoder)
    (name,) = encoder.specs
    training = encoder.training

    def tokens(inputs: Mapping[str, BatchInput]) -> Tensor:
        x = inputs[name]
        assert isinstance(x, Dense)
        return encoder(inputs).tokens.unflatten(1, grid_of(x.values.shape[2:], patch))  # type: ignore[no-any-return]

    encoder.eval()
    found = points.read(encoder.specs, next(encoder.parameters()).device, patch, tokens)
    encoder.train(training)
    return found


@torch.inference_mode()
def log_probabilities_at(model: Model, points: Points) -> NDArray[np.float64]:
    """(M, K) of each point's cell, of a model that segments."""
    model.eval()
    cell = (1,) * points.cell.shape[1]
    maps: Maps = lambda inputs: model(inputs).log_softmax(1).movedim(1, -1)  # noqa: E731
    return points.read(model.encoder.specs, next(model.parameters()).device, cell, maps).astype(np.float64)
