"""Packed inputs for tests: rows of very unequal length, one token of which is invalid."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch, Packed

EVENTS = InputSpec(layout="packed", channels=("size",), units=("",), axes=("time",), unit="s")


def pack(values: Tensor, counts: Sequence[int], coords: Tensor | None = None) -> Packed:
    """`values` (N, C) in rows of `counts` tokens, the fourth token invalid; without `coords` (N, d) each row counts up."""
    if coords is None:
        coords = torch.cat([torch.arange(k) for k in counts])[:, None].double()
    offsets = torch.tensor([0, *counts]).cumsum(0)
    return Packed(values, torch.arange(len(values)) != 3, coords, offsets)


def with_events(batch: Batch, counts: Sequence[int]) -> Batch:
    """`batch` with a second input "events" of the spec `EVENTS`: `counts` tokens a row, at random times in float64."""
    g = torch.Generator().manual_seed(2)
    values, coords = (torch.rand(sum(counts), 1, dtype=torch.float64, generator=g) for _ in range(2))
    return batch.with_inputs(events=pack(values, counts, coords))
