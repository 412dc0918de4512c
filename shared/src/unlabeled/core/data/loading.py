"""Loading: the batches of any range of steps, exactly, whatever the workers and ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from unlabeled.core import ranks
from unlabeled.core.contracts import BadInput, Input, InputSpec, RequestError, Sample
from unlabeled.core.contracts.batch import Batch, BatchInput, Dense, Graph, Packed
from unlabeled.core.contracts.plan import Plan, Renewed

PADDING = -1


class Source(Protocol):
    """What the loader draws from: `Items`, or anything alike.

    Where it has `stored`, samples come from there: with the file's integers, which `Batch.ready` normalises.
    """

    def __len__(self) -> int: ...

    def sample(self, i: int) -> Sample: ...


@dataclass(frozen=True)
class Missing:
    """An item that is padding, or failed for a reason."""

    index: int
    reason: str = ""


class _Set(Dataset[Any]):
    def __init__(self, source: Source) -> None:
        self.sample = getattr(source, "stored", source.sample)

    def __getitem__(self, i: int) -> Sample | Missing:
        if i == PADDING:
            return Missing(PADDING)
        try:
            sample: Sample = self.sample(i)
            return sample
        except BadInput as error:
            return Missing(i, str(error))


class _Batches:
    """The batch sampler: which ids the next epoch's loader asks for; set before each epoch."""

    def __init__(self) -> None:
        self.planned: list[NDArray[np.int64]] = []

    def __iter__(self) -> Iterator[list[int]]:
        return (share(ids, ranks.rank(), ranks.world()) for ids in self.planned)

    def __len__(self) -> int:
        return len(self.planned)


class Loader:
    """Batches by step. The position is the number of completed steps: there is no other state.

    failures  item -> (epoch, reason): an item that failed stays in its batch with weight 0, and later epochs leave it
              out. Restored on resume, since the plans depend on it.
    """

    def __init__(
        self,
        source: Source,
        specs: Mapping[str, InputSpec],
        plan: Plan,
        seed: int,
        groups: Sequence[int] | None = None,
        workers: int = 0,
        pin: bool = False,
    ) -> None:
        self.items_total = len(source)
        self.source, self.collate = _Set(source), Collate(specs, groups)
        self.plan, self.seed = plan, seed
        self.failures: dict[int, tuple[int, str]] = {}
        self._batches = _Batches()
        self._from, self._to = 0, 0  # the steps of the epoch that batches were last drawn from
        self._loader = DataLoader(
            self.source,
            batch_sampler=self._batches,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=pin,
            collate_fn=self.collate,
        )
        check_filled(plan, len(source))

    def _without(self, epoch: int) -> frozenset[int]:
        return frozenset(i for i, (e, _) in self.failures.items() if e < epoch)

    def locate(self, step: int) -> tuple[int, int]:
        """(epoch, batches of it already done) after `step` completed steps; an epoch not yet chosen is not looked into."""
        epoch = 0
        while self._known(epoch) and step >= (n := self.plan.steps(epoch, self._without(epoch))):
            if n == 0:
                raise RequestError(f"after {len(self.failures)} failed items no full batch is left")
            step -= n
            epoch += 1
        return epoch, step

    def batches(self, start: int, stop: int) -> Iterator[tuple[int, Batch]]:
        """(epoch, this rank's share of the batch) for the steps start ... stop - 1.

        Ends early before an epoch whose items are not yet chosen: `renew` chooses them.
        """
        step = start
        while step < stop:
            epoch, offset = self.locate(step)
            if not self._known(epoch):
                return
            planned = self.plan(self.seed, epoch, self._without(epoch))[offset:]
            self._from, self._to = step, step + len(planned)
            self._batches.planned = planned[: stop - step]
            for batch in self._loader:
                for item, reason in batch.failed.items():
                    self.failures.setdefault(item, (epoch, reason))
                step += 1
                yield epoch, batch
            self.sync()

    def _known(self, epoch: int) -> bool:
        return not isinstance(self.plan, Renewed) or self.plan.known(epoch)

    def renew(self, step: int, method: Any) -> None:
        """Let a plan that depends on what was learned choose the items of the epoch after `step` steps; on all ranks."""
        if not isinstance(self.plan, Renewed) or self._from <= step < self._to:
            return
        epoch, _ = self.locate(step)
        if not self.plan.known(epoch):
            self.sync()
            self.plan.renew(epoch, method)

    def chosen(self) -> list[str]:
        """What such a plan has chosen so far, for a checkpoint."""
        return self.plan.state() if isinstance(self.plan, Renewed) else []

    def choose_again(self, state: list[str]) -> None:
        """Bring back what a checkpoint says was chosen."""
        if isinstance(self.plan, Renewed):
            self.plan.restore(state)

    def at(self, step: int) -> Batch:
        """This rank's share of the batch of one step, read again in this process."""
        epoch, offset = self.locate(step)
        ids = self.plan(self.seed, epoch, self._without(epoch))[offset]
        return self.collate([self.source[i] for i in share(ids, ranks.rank(), ranks.world())])

    def sync(self) -> None:
        """Let every rank know every rank's failures; called between epochs and before a save."""
        if ranks.world() > 1:
            all_of: list[dict[int, tuple[int, str]]] = [{} for _ in range(ranks.world())]
            dist.all_gather_object(all_of, self.failures)
            self.failures = {k: v for part in all_of for k, v in sorted(part.items())}


def check_filled(plan: Plan, items: int) -> None:
    """Raises RequestError where the plan of these items has no batch."""
    if plan.steps(0) == 0:
        raise RequestError(f"{items} items fill no batch; set batch_size to {items} or lower, or give more data")


def share(ids: NDArray[np.int64], rank: int, world: int) -> list[int]:
    """This rank's part of a global batch: contiguous, equally long on every rank, padded with -1."""
    n = -(-len(ids) // world)
    mine = ids[rank * n : (rank + 1) * n].tolist()
    return [*mine, *[PADDING] * (n - len(mine))]


class Collate:
    """Samples to a Batch. Shorter items are padded with invalid zeros; missing ones are all invalid, with weight 0."""

    def __init__(self, specs: Mapping[str, InputSpec], groups: Sequence[int] | None = None) -> None:
        self.specs = dict(specs)
        self.groups = groups

    def __call__(self, samples: Sequence[Sample | Missing]) -> Batch:
        there = [s if isinstance(s, Sample) else None for s in samples]
        return Batch(
            inputs={
                n: self._input(spec, [s.inputs[n] if s else None for s in there]) for n, spec in self.specs.items()
            },
            index=torch.tensor([s.index for s in samples]),
            record=torch.tensor([s.record if s else PADDING for s in there]),
            group=torch.tensor([self.groups[s.record] if s and self.groups else PADDING for s in there]),
            weight=torch.tensor([float(s is not None) for s in there]),
            failed={s.index: s.reason for s in samples if isinstance(s, Missing) and s.index != PADDING},
        )

    def _input(self, spec: InputSpec, inputs: Sequence[Input | None]) -> BatchInput:
        return dense(spec, inputs) if spec.layout == "dense" else tokens(spec, inputs)


def dense(spec: InputSpec, inputs: Sequence[Input | None]) -> Dense:
    """Pad every item at its far end to the largest shape in the batch.

    Integers stay integers where all items have the same type of them; otherwise all are normalised here.
    """
    kinds = {(x.data.dtype, x.offset is None) for x in inputs if x is not None}
    if len(kinds) > 1:
        inputs = [x and x.ready() for x in inputs]
    there = [x for x in inputs if x is not None]
    shape = tuple(int(n) for n in np.max([x.shape for x in there], axis=0)) if there else (1,) * spec.rank
    rows = max((x.valid.shape[0] for x in there if x.valid is not None), default=1)
    integers = bool(there) and there[0].offset is not None
    values = torch.zeros(
        len(inputs), spec.width, *shape, dtype=torch.as_tensor(there[0].data[:0]).dtype if integers else torch.float32
    )
    offset, scale = (
        (torch.zeros(len(inputs), spec.width), torch.ones(len(inputs), spec.width)) if integers else (None, None)
    )
    valid = torch.zeros(len(inputs), rows, *shape, dtype=torch.bool)
    spacing = torch.ones(len(inputs), spec.rank)
    for b, x in enumerate(inputs):
        if x is None:
            continue
        at: Any = (b, slice(None), *(slice(n) for n in x.shape))
        values[at] = torch.as_tensor(x.data)
        valid[at] = True if x.valid is None else torch.as_tensor(x.valid)
        spacing[b] = torch.tensor(x.spacing)
        if offset is not None and scale is not None:
            offset[b], scale[b] = torch.tensor(x.offset), torch.tensor(x.scale)
    whole = len(there) == len(inputs) and all(x.shape == shape and (x.valid is None or x.valid.all()) for x in there)
    return Dense(values, valid, spacing, whole, offset, scale)


def tokens(spec: InputSpec, inputs: Sequence[Input | None]) -> Packed:
    """Concatenate; a missing item is one invalid token."""
    values: list[Tensor] = []
    valid: list[Tensor] = []
    coords: list[Tensor] = []
    edges: list[Tensor] = []
    offsets = [0]
    for x in inputs:
        n = 1 if x is None else len(x.data)
        values.append(torch.zeros(1, spec.width) if x is None else torch.as_tensor(x.data, dtype=torch.float32))
        valid.append(torch.full((n,), x is not None) if x is None or x.valid is None else torch.as_tensor(x.valid))
        coords.append(
            torch.zeros(n, spec.rank)
            if x is None or x.coords is None
            else torch.as_tensor(x.coords, dtype=torch.float32)
        )
        if x is not None and x.edges is not None:
            edges.append(torch.as_tensor(x.edges) + offsets[-1])
        offsets.append(offsets[-1] + n)
    packed = (torch.cat(values), torch.cat(valid), torch.cat(coords), torch.tensor(offsets))
    if spec.layout == "graph":
        return Graph(*packed, edges=torch.cat([torch.zeros(2, 0, dtype=torch.int64), *edges], 1))
    return Packed(*packed)
