"""On a CUDA device: no wait for it inside a step, and the guard and the resume work there too."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.testing.toys import Denoiser, Distiller, identical, lines, loader, recipe
from unlabeled.core.training import checkpoint
from unlabeled.core.training.capture import Captures
from unlabeled.core.training.fit import fit
from unlabeled.core.training.health import Monitor
from unlabeled.core.training.prefetch import prefetched
from unlabeled.core.training.step import Step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("kind", [Denoiser, Distiller])
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_twenty_steps_do_not_wait_for_the_device(kind: type[Denoiser], precision: str, tmp_path: Path) -> None:
    device = torch.device("cuda")
    made = recipe(20, precision=precision, optimiser={"clip": 1.0})
    step = Step(kind().to(device), made)
    batches = [(epoch, batch.pin_memory()) for epoch, batch in loader().batches(0, 20)]
    monitor, captures = Monitor(made.health, 20, 4, 20), Captures(tmp_path, loader().at)
    step(0, *batches[0], device, torch.autograd.backward, step.optimiser.step)  # sets up moments and counts
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i, (epoch, batch) in enumerate(batches[1:], 1):
            out = step(i, epoch, batch, device, torch.autograd.backward, step.optimiser.step)
            monitor.keep(i, out)
            captures.keep(i, epoch, out, step.guard)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("loop", ["plain", "lightning"])
def test_resume_is_exact_where_the_kernels_are(loop: str, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options: dict[str, Any] = {"loop": loop, "accelerator": "gpu", "devices": 1}
    fit(Distiller(), loader(), recipe(20, **options), whole, resume=False)
    fit(Distiller(), loader(), recipe(20, **options), parts, resume=False)
    checkpoint.path_of(parts / "checkpoints", 20).unlink()
    assert fit(Distiller(), loader(), recipe(20, **options), parts, resume=True).resumed_from == 15
    assert lines(parts) == lines(whole)
    assert identical(checkpoint.newest(parts / "checkpoints"), checkpoint.newest(whole / "checkpoints"))


def test_batches_fetched_ahead_are_the_same_and_keep_their_integers() -> None:
    device = torch.device("cuda")
    there = Dense(
        torch.arange(24, dtype=torch.uint8).view(2, 3, 4), torch.ones(2, 1, 4, dtype=torch.bool), torch.ones(2, 1), True,
        torch.full((2, 3), 5.0), torch.full((2, 3), 2.0),
    )  # fmt: skip
    (_, plain), *_ = loader().batches(0, 1)
    source = [(e, plain.with_inputs(x=replace(there, values=there.values + e))) for e in range(5)]
    got = list(prefetched(iter(source), device))
    assert [epoch for epoch, _ in got] == list(range(5))
    for (_, given), (_, batch) in zip(source, got, strict=True):
        x = batch.inputs["x"]
        assert x.values.device.type == "cuda" and x.values.dtype == torch.uint8
        torch.testing.assert_close(
            batch.ready().inputs["x"].values.cpu(), given.ready().inputs["x"].values, rtol=1e-6, atol=1e-6
        )
