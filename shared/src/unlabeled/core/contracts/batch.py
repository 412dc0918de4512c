"""Batches: dense, packed, graph. One class each, the same fields; every tensor moves with `.to`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

    def record_stream(self, stream: torch.cuda.Stream) -> None:
        """The memory of these tensors is used on `stream` too, and is given to no one else before."""
        self._each(lambda t: t.record_stream(stream) or t)


@dataclass(frozen=True)
class Dense(Moves):
    """values (B, C, *S); valid (B, 1 | C, *S) bool; spacing (B, d) in the spec's unit.

    whole          known on the host, without a look at the device, that everything is valid, so that masks may be left out
    offset, scale  (B, C) float32 of values that are still the file's integers, None where they are normalised:
                   `Batch.ready` makes (values - offset) / scale of them, on the device
    """

    values: Tensor
    valid: Tensor
    spacing: Tensor
    whole: bool = False
    offset: Tensor | None = None
    scale: Tensor | None = None

    @property
    def size(self) -> int:
        return self.values.shape[0]

    @property
    def rank(self) -> int:
        return self.values.ndim - 2

    def ready(self) -> Dense:
        """With normalised float32 values: a quarter of the bytes travelled, and the device does the arithmetic."""
        if self.offset is None or self.scale is None:
            return self
        per_channel = (*self.offset.shape, *[1] * self.rank)
        values = (self.values.float() - self.offset.view(per_channel)) / self.scale.view(per_channel)
        if not self.whole:
            values = torch.where(self.valid, values, 0)
        return replace(self, values=values, offset=None, scale=None)

    def rows(self, at: slice) -> Dense:
        offset, scale = (None if t is None else t[at] for t in (self.offset, self.scale))
        return replace(
            self, values=self.values[at], valid=self.valid[at], spacing=self.spacing[at], offset=offset, scale=scale
        )

    @classmethod
    def joined(cls, parts: Sequence[Dense]) -> Dense:
        """The rows of all parts, which are ready and of one shape."""
        values, valid, spacing = (torch.cat([getattr(x, f) for x in parts]) for f in ("values", "valid", "spacing"))
        return cls(values, valid, spacing, whole=all(x.whole for x in parts))


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

    def ready(self) -> Self:
        return self

    @classmethod
    def joined(cls, parts: Sequence[Packed]) -> Packed:
        """The rows of all parts."""
        values, valid, coords = (torch.cat([getattr(x, f) for x in parts]) for f in ("values", "valid", "coords"))
        ends = [x.offsets[1:] + first for x, first in zip(parts, _firsts(parts), strict=True)]
        return Packed(values, valid, coords, torch.cat([parts[0].offsets[:1], *ends]))


def _firsts(parts: Sequence[Packed]) -> list[int]:
    """The number that the first token of every part gets where the parts follow each other."""
    return [sum(len(x.values) for x in parts[:i]) for i in range(len(parts))]


@dataclass(frozen=True)
class Graph(Packed):
    """A packed batch of nodes with edges (2, E) between them, numbered through the batch."""

    edges: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Graph]) -> Graph:  # type: ignore[override]
        """The rows of all parts, with their edges."""
        nodes = Packed.joined(parts)
        edges = [x.edges + first for x, first in zip(parts, _firsts(parts), strict=True)]
        return cls(nodes.values, nodes.valid, nodes.coords, nodes.offsets, torch.cat(edges, 1))


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

    def ready(self) -> Batch:
        """This batch with normalised values; called right after `.to(device)`, before anything looks at values."""
        return self.with_inputs(**{name: x.ready() for name, x in self.inputs.items()})

    def parts(self, n: int) -> list[Batch]:
        """The rows in at most n parts of nearly equal size. Raises TypeError where an input is packed."""
        size = -(-self.size // n)
        return [self._rows(slice(i, i + size)) for i in range(0, self.size, size)]

    def _rows(self, at: slice) -> Batch:
        inputs = {}
        for name, x in self.inputs.items():
            if not isinstance(x, Dense):
                raise TypeError(f"the rows of the packed input {name!r} are not cut")
            inputs[name] = x.rows(at)
        same = {name: getattr(self, name)[at] for name in ("index", "record", "group", "weight")}
        return replace(self, inputs=inputs, **same)

    def with_inputs(self, **inputs: BatchInput) -> Batch:
        """This batch with the named inputs replaced."""
        return replace(self, inputs={**self.inputs, **inputs})
