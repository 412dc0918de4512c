"""Fingerprint: what an encoder says to a fixed input, so that a wrong load is seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import BatchInput, Dense, Graph, Packed
from unlabeled.core.nn.base import Encoder
from unlabeled.core.streams import key, normal

CELLS = 64  # along each axis of a one-axis grid; fewer along each of several
TOKENS = 12


def fixed_inputs(specs: Mapping[str, InputSpec], shape: tuple[int, ...] | None = None) -> dict[str, BatchInput]:
    """Two items per named input, the same on every machine. shape: of dense grids, where another one is wanted."""
    return {name: _fixed(name, spec, shape) for name, spec in specs.items()}


def _fixed(name: str, spec: InputSpec, shape: tuple[int, ...] | None) -> BatchInput:
    stream, items = key(0, "fingerprint", name), torch.arange(2)
    if spec.layout == "dense":
        shape = shape or (CELLS if spec.rank == 1 else 32,) * spec.rank
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


def fingerprint(encoder: Encoder) -> list[list[float]]:
    """(2, up to 16) values of the pooled output on the fixed input, in evaluation mode."""
    return output_on_fixed(encoder, encoder.specs, lambda inputs: encoder(inputs).pooled)


@torch.inference_mode()
def output_on_fixed(
    module: nn.Module, specs: Mapping[str, InputSpec], output: Callable[[dict[str, BatchInput]], Tensor]
) -> list[list[float]]:
    """(2, up to 16) first values of `output` of the fixed inputs, with `module` in evaluation mode."""
    training = module.training
    module.eval()
    some: Tensor = next(module.parameters())
    inputs = {n: _cast(x.to(some.device), some.dtype) for n, x in fixed_inputs(specs).items()}
    values = output(inputs).flatten(1)[:, :16].double().cpu()
    module.train(training)
    return [[float(f"{v:.7g}") for v in row] for row in values.tolist()]


def _cast(x: BatchInput, dtype: torch.dtype) -> BatchInput:
    return x._each(lambda t: t.to(dtype) if t.is_floating_point() else t)
