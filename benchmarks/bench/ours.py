"""Our side of a step: the optimiser step that `fit` does, guard and schedule and all, on a batch that is there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.row import Work
from unlabeled.core.contracts import Input, InputSpec
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.contracts.recipe import Data, Named, Optimiser, Recipe
from unlabeled.core.methods.base import Method
from unlabeled.core.training.fit import reproducible
from unlabeled.core.training.layout import channels_last
from unlabeled.core.training.step import Step

CHANNELS = ("red", "green", "blue")
LR, BETAS, DECAY = 1.5e-4, (0.9, 0.95), 0.05


def spec() -> InputSpec:
    """The contract of RGB images."""
    plain = torch.zeros(3, 1, 1).numpy()
    return InputSpec.of(Input(plain, CHANNELS, ("",) * 3, unit="px", spacing=(1.0, 1.0)), axes=("y", "x"))


def images(size: int, side: int, device: torch.device, seed: int = 0) -> Tensor:
    """(size, 3, side, side) noise: no step takes longer or shorter for what is in an image."""
    lot = torch.Generator().manual_seed(seed)
    return torch.randn(size, 3, side, side, generator=lot).to(device)


def batch_of(x: Tensor) -> Batch:
    """What the loader makes of images that are there and whole."""
    n, rank = len(x), x.ndim - 2
    valid = torch.ones(n, 1, *x.shape[2:], dtype=torch.bool, device=x.device)
    number = torch.arange(n, device=x.device)
    dense = Dense(x, valid, torch.ones(n, rank, device=x.device), whole=True)
    return Batch({"x": dense}, number, number, number, torch.ones(n, device=x.device), {})


def stepper(method: Method, batch: Batch, device: torch.device) -> Work:
    """One optimiser step after the other on this batch, in fp32."""
    recipe = Recipe(
        domain="bench",
        data=Data(path=Path("bench")),
        method=Named(name="bench"),
        encoder=Named(name="bench"),
        optimiser=Optimiser(lr=LR, betas=BETAS, weight_decay=DECAY),
        batch_size=batch.size,
        max_steps=1_000_000,
    )
    if device.type == "cpu":
        channels_last(method)
    step = Step(method.to(device).train(), recipe)
    done = 0

    def backward(loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def work() -> dict[str, Any]:
        nonlocal done
        done += 1
        with reproducible(recipe.trainer, device.type):  # deterministic algorithms, as in a run
            return step(done, 0, batch, device, backward, step.optimiser.step)

    return work
