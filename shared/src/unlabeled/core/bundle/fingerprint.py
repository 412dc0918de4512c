"""Fingerprint: what an encoder says to a fixed input, so that a wrong load is seen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import BatchInput, Dense, Graph, Packed
from unlabeled.core.nn.base import Encoder
from unlabeled.core.streams import key, normal

CELLS = 64  # along each axis of a one-axis grid; fewer along each of several
TOKENS = 12


def fixed_inputs(specs: Mapping[str, InputSpec]) -> dict[str, BatchInput]:
    """Two items per named input, the same on every machine."""
    return {name: _fixed(name, spec) for name, spec in specs.items()}


def _fixed(name: str, spec: InputSpec) -> BatchInput:
    stream, items = key(0, "fingerprint", name), torch.arange(2)
    if spec.layout == "dense":
        shape = (CELLS if spec.rank == 1 else 32,) * spec.rank
        values = normal(stream, items, (spec.width, *shape))
        spacing = torch.tensor(spec.spacing or (1.0,) * spec.rank).expand(2, -1)
        return Dense(values, torch.ones(2, 1, *shape, dtype=torch.bool), spacing)
    values = normal(stream, items, (TOKENS, spec.width)).flatten(0, 1)
    coords = torch.arange(TOKENS, dtype=torch.float32).repeat(2)[:, None].expand(-1, spec.rank)
    valid = torch.ones(2 * TOKENS, dtype=torch.bool)
    offsets = torch.tensor([0, TOKENS, 2 * TOKENS])
    if spec.layout == "graph":
        ring = torch.stack([torch.arange(TOKENS), (torch.arange(TOKENS) + 1) % TOKENS])
        return Graph(values, valid, coords, offsets, edges=torch.cat([ring, ring + TOKENS], 1))
    return Packed(values, valid, coords, offsets)


@torch.inference_mode()
def fingerprint(encoder: Encoder) -> list[list[float]]:
    """(2, up to 16) values of the pooled output on the fixed input, in evaluation mode."""
    training = encoder.training
    encoder.eval()
    some: Tensor = next(encoder.parameters())
    inputs = {n: _cast(x.to(some.device), some.dtype) for n, x in fixed_inputs(encoder.specs).items()}
    pooled = encoder(inputs).pooled[:, :16].double().cpu()
    encoder.train(training)
    return [[float(f"{v:.7g}") for v in row] for row in pooled.tolist()]


def _cast(x: BatchInput, dtype: torch.dtype) -> BatchInput:
    return x._each(lambda t: t.to(dtype) if t.is_floating_point() else t)
