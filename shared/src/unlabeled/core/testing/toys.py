"""Two tiny methods and their data, for tests of what drives a method: loops, checkpoints, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from unlabeled.core import ranks, streams
from unlabeled.core.contracts import BadInput, Input, InputSpec, Sample
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.contracts.recipe import Data, Named, Optimiser, Recipe, Schedule, Trainer
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.plans import Uniform
from unlabeled.core.methods.base import Context, Method, Options, weighted
from unlabeled.core.training.log import read

CHANNELS, LENGTH, WIDTH = 2, 6, 8


class Waves:
    """`items` series of 2 channels and 6 values, each a pure function of its number; the `bad` ones cannot be read."""

    def __init__(self, items: int = 32, bad: tuple[int, ...] = ()) -> None:
        self.items, self.bad = items, bad

    def __len__(self) -> int:
        return self.items

    def sample(self, i: int) -> Sample:
        if i in self.bad:
            raise BadInput(f"wave {i} is broken")
        data = streams.rng(0, "wave", i).standard_normal((CHANNELS, LENGTH)).astype(np.float32)
        x = Input(data, ("a", "b"), ("", ""), unit="s", spacing=(1.0,))
        return Sample({"x": x}, key=f"wave-{i}", group=f"g{i}", index=i, record=i)


SPECS = {"x": InputSpec.of(Waves().sample(0).inputs["x"])}


class Denoiser(Method):
    """Predicts a series from its noisy copy, with per-item noise and with dropout from torch's global stream.

    journal  where every step appends [step, epoch, item ids], or None
    """

    class Options(Options):
        dropout: float = 0.1

    def __init__(self, options: Any = None, journal: Path | None = None) -> None:
        options = options or self.Options()
        generator = streams.generator(0, "toy")
        super().__init__(nn.Linear(CHANNELS * LENGTH, WIDTH), SPECS, options)
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(WIDTH, CHANNELS * LENGTH)
        self.journal = journal
        self._build()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)

    def _build(self) -> None:
        """More parts, before the weights are drawn."""

    def encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.encoder(x)
        return z.tanh()

    def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
        if self.journal:
            with self.journal.open("a") as file:
                file.write(json.dumps([ctx.step, ctx.epoch, batch.index.tolist()]) + "\n")
        x = _flat(batch)
        noise = ctx.draw(batch).normal("noise", x.shape[1]).to(x.dtype)
        z = self.encode(x + 0.5 * noise)
        error = (self.head(self.dropout(z)) - x).pow(2).mean(1)
        return weighted({"error": (1.0, ranks.mean(error, batch.weight))}, z)


class Distiller(Denoiser):
    """The same with batch norm, an EMA teacher and a queue: moments, frozen weights, a table and its pointer."""

    def _build(self) -> None:
        self.norm = nn.BatchNorm1d(WIDTH)
        self.teacher = nn.Linear(CHANNELS * LENGTH, WIDTH).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(12, WIDTH))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.int64))
        self.queue: Tensor
        self.pointer: Tensor

    def encode(self, x: Tensor) -> Tensor:
        z: Tensor = self.norm(self.encoder(x))
        return z.tanh()

    def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
        out = super().step(batch, ctx)
        z = self.encode(_flat(batch))
        target = self.teacher(_flat(batch)).tanh()
        self._keys = target
        gap = ranks.mean((z - target).pow(2).mean(1), batch.weight)
        spread = (z @ self.queue.T).pow(2).mean()
        parts = {"error": (1.0, out["loss"]), "gap": (0.5, gap), "spread": (0.1, spread)}
        return weighted(parts, z)

    @torch.no_grad()
    def after_step(self, ctx: Context) -> None:
        for slow, fast in zip(self.teacher.parameters(), self.encoder.parameters(), strict=True):
            slow.lerp_(fast, 0.05)
        at = (self.pointer + torch.arange(len(self._keys), device=self._keys.device)) % len(self.queue)
        self.queue[at] = self._keys.to(self.queue.dtype)
        self.pointer.add_(len(self._keys)).remainder_(len(self.queue))


def _flat(batch: Batch) -> Tensor:
    x = batch.inputs["x"]
    assert isinstance(x, Dense)
    return x.values.flatten(1)


def recipe(
    steps: int = 20, *, optimiser: dict[str, Any] | None = None, max_bad_fraction: float = 0.5, **trainer: Any
) -> Recipe:
    """A recipe of `steps` steps on 4 items each; the options are the trainer's."""
    return Recipe(
        domain="toy",
        data=Data(path=Path("toy"), max_bad_fraction=max_bad_fraction),
        method=Named(name="toy"),
        encoder=Named(name="toy"),
        optimiser=Optimiser(**{"lr": 0.01, **(optimiser or {})}),
        schedule=Schedule(warmup=3),
        trainer=Trainer(
            **{"loop": "plain", "accelerator": "cpu", "tensorboard": False, "save_every": 5, "log_every": 3, **trainer}
        ),
        batch_size=4,
        max_steps=steps,
    )


def loader(source: Waves | None = None, workers: int = 0, batch_size: int = 4) -> Loader:
    source = source or Waves()
    return Loader(source, SPECS, Uniform(len(source), batch_size), seed=0, workers=workers)


def identical(a: Any, b: Any) -> bool:
    """Whether two nested states are equal to the bit (NaN equals NaN)."""
    if isinstance(a, Tensor):
        return (
            isinstance(b, Tensor)
            and a.dtype == b.dtype
            and a.shape == b.shape
            and a.cpu().numpy().tobytes() == b.cpu().numpy().tobytes()
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(identical(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(identical, a, b))
    return type(a) is type(b) and bool(a == b)


def lines(run: Path) -> list[dict[str, Any]]:
    """The run's metrics without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in ("wait", "speed")} for line in read(run / "metrics.jsonl")]
