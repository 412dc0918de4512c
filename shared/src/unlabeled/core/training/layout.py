"""The order of weights in memory."""

from __future__ import annotations

import torch
from torch import nn


def channels_last(module: nn.Module) -> None:
    """Weights of 2-D convolutions in the order that maps have on a CPU (`nn.backbone.channels_last`).

    Else each forward and backward pass copies them, and their gradients, from one order into the other.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            part.weight.data = part.weight.data.contiguous(memory_format=torch.channels_last)


def follow(optimiser: torch.optim.Optimizer) -> None:
    """Give each moment the order of its weight, which a checkpoint from another device may not have.

    The fused step walks through the memory of both side by side and would take one element's moment for another's.
    """
    for p, state in optimiser.state.items():
        for name, t in state.items():
            if isinstance(t, torch.Tensor) and t.shape == p.shape:
                state[name] = torch.empty_like(p, dtype=t.dtype).copy_(t)
