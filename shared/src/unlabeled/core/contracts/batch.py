"""Batches: dense, packed, graph. One class each, the same fields; every tensor moves with `.to`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moves:
    """A frozen record of tensors that moves between devices as one."""

    def _each(self, move: Any) -> Self:
        changes = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, Tensor | Moves):
                changes[f.name] = move(value)
            elif isinstance(value, Mapping):
                changes[f.name] = {k: move(v) if isinstance(v, Tensor | Moves) else v for k, v in value.items()}
        return replace(self, **changes)

    def to(self, *args: Any, **kwargs: Any) -> Self:
        return self._each(lambda t: t.to(*args, **kwargs))

    def pin_memory(self) -> Self:
        return self._each(lambda t: t.pin_memory())


@dataclass(frozen=True)
class Dense(Moves):
    """values (B, C, *S); valid (B, 1 | C, *S) bool; spacing (B, d) in the spec's unit.

    whole: known on the host, without a look at the device, that everything is valid, so that masks may be left out.
    """

    values: Tensor
    valid: Tensor
    spacing: Tensor
    whole: bool = False

    @property
    def size(self) -> int:
        return self.values.shape[0]

    @property
    def rank(self) -> int:
        return self.values.ndim - 2


@dataclass(frozen=True)
class Packed(Moves):
    """values (N, C) of all tokens, valid (N,), coords (N, d), offsets (B + 1,) int64: row b is offsets[b]:offsets[b+1]."""

    values: Tensor
    valid: Tensor
    coords: Tensor
    offsets: Tensor

    @property
    def size(self) -> int:
        return len(self.offsets) - 1

    @property
    def owner(self) -> Tensor:
        """(N,) the row each token belongs to."""
        rows = torch.arange(self.size, device=self.offsets.device)
        return torch.repeat_interleave(rows, self.offsets.diff(), output_size=self.values.shape[0])


@dataclass(frozen=True)
class Graph(Packed):
    """A packed batch of nodes with edges (2, E) between them, numbered through the batch."""

    edges: Tensor


BatchInput = Dense | Packed | Graph


@dataclass(frozen=True)
class Batch(Moves):
    """What a step sees on one rank.

    inputs  by name. index (B,) item ids, -1 for padding. record (B,) and group (B,) int64 codes.
    weight  (B,) 1, or 0 for padding and for items that failed to load (their `valid` is all False).
    failed  item id -> reason, for the loader's count; stays on the host.
    """

    inputs: Mapping[str, BatchInput]
    index: Tensor
    record: Tensor
    group: Tensor
    weight: Tensor
    failed: Mapping[int, str]

    @property
    def size(self) -> int:
        return len(self.index)

    def with_inputs(self, **inputs: BatchInput) -> Batch:
        """This batch with the named inputs replaced."""
        return replace(self, inputs={**self.inputs, **inputs})
