"""On a CUDA device: no wait for it inside a step, and the guard and the resume work there too."""

from pathlib import Path
from typing import Any

import pytest
import torch

from unlabeled.core.testing.toys import Denoiser, Distiller, identical, lines, loader, recipe
from unlabeled.core.training import checkpoint
from unlabeled.core.training.fit import fit
from unlabeled.core.training.step import Step

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


@pytest.mark.parametrize("kind", [Denoiser, Distiller])
@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_twenty_steps_do_not_wait_for_the_device(kind: type[Denoiser], precision: str) -> None:
    device = torch.device("cuda")
    step = Step(kind().to(device), recipe(20, precision=precision, optimiser={"clip": 1.0}))
    batches = [(epoch, batch.pin_memory()) for epoch, batch in loader().batches(0, 20)]
    step(0, *batches[0], device, torch.autograd.backward, step.optimiser.step)  # sets up moments and counts
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i, (epoch, batch) in enumerate(batches[1:], 1):
            step(i, epoch, batch, device, torch.autograd.backward, step.optimiser.step)
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
