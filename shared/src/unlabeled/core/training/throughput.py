"""Throughput: how fast a run goes, how near to what the device could do, and what holds it up."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from unlabeled.core import ranks
from unlabeled.core.contracts.batch import Batch, Packed
from unlabeled.core.contracts.recipe import Recipe

# dense peaks in TFLOP/s, (bf16, fp32 without TF32), from the vendors' data sheets; the first name that is in the
# device's name counts
PEAKS: tuple[tuple[str, float | None, float], ...] = (
    ("B200", 2250, 75),
    ("GH200", 989, 67),
    ("H200", 989, 67),
    ("H100 PCIe", 756, 51),
    ("H100", 989, 67),
    ("A100", 312, 19.5),
    ("L40S", 362, 91.6),
    ("L4", 121, 30.3),
    ("A10", 125, 31.2),
    ("RTX 4090", 165, 82.6),
    ("RTX 3090", 71, 35.6),
    ("V100", None, 15.7),
    ("T4", None, 8.1),
)

SLOW = 0.1  # share of the time waiting for data from which on something is said about it


def peak(name: str, precision: str) -> float | None:
    """FLOP/s of a device by its name, None where unknown."""
    for known, bf16, fp32 in PEAKS:
        if known in name:
            rate = {"bf16": bf16, "32": fp32}.get(precision)
            return rate and rate * 1e12
    return None


class Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts within it the floating point operations of matrix products, convolutions and attention, by torch's formulas."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=out)
        return out


class Meter:
    """Clocks of one call of `fit`.

    A lap gives samples_per_s over all ranks, tokens_per_s (None for grids, whose tokens are the encoder's own), flops of
    a step on this rank, and mfu, the share of the device's peak that they make (None where either is unknown).
    """

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        self.peak = peak(name, recipe.trainer.precision)
        self.workers = recipe.trainer.workers
        self.waiting = self.thinking = 0.0
        self._begin = self._since = time.perf_counter()
        self.steps = self._items = self._tokens = 0
        self._before = (0, 0, 0)

    def waited(self, seconds: float, cpu: float) -> None:
        """Time until a batch was there, and this process's own work in it."""
        self.waiting += seconds
        self.thinking += cpu

    def step(self, batch: Batch) -> None:
        self.steps += 1
        self._items += batch.size * ranks.world()
        packed = [x for x in batch.inputs.values() if isinstance(x, Packed)]
        self._tokens += sum(x.values.shape[0] for x in packed) * ranks.world()

    def lap(self, flops: int | None) -> dict[str, float | None]:
        """Rates since the last lap."""
        now, before = time.perf_counter(), self._before
        rates = self._rates(flops, now - self._since, *(a - b for a, b in zip(self._counts, before, strict=True)))
        self._since, self._before = now, self._counts
        return rates

    @property
    def _counts(self) -> tuple[int, int, int]:
        return self.steps, self._items, self._tokens

    def _rates(self, flops: int | None, seconds: float, steps: int, items: int, tokens: int) -> dict[str, float | None]:
        seconds = max(seconds, 1e-9)
        rate = flops * steps / seconds if flops else None
        return {
            "samples_per_s": items / seconds if items else None,
            "tokens_per_s": tokens / seconds if tokens else None,
            "flops": flops,
            "mfu": rate / self.peak if rate and self.peak else None,
        }

    def summary(self, flops: int | None) -> dict[str, Any]:
        """Rates of the whole call, `wait` (share of the time) and `advice`, a sentence or None."""
        seconds = time.perf_counter() - self._begin
        wait = self.waiting / max(seconds, 1e-9)
        cores = max(1, (os.cpu_count() or 1) // ranks.world())  # of this process, where all are on one machine
        advice = advise(wait, self.thinking / max(self.waiting, 1e-9), self.workers, cores)
        return {**self._rates(flops, seconds, *self._counts), "seconds": seconds, "wait": wait, "advice": advice}


def advise(wait: float, busy: float, workers: int, cores: int) -> str | None:
    """What to do about waiting for data.

    wait  share of the run's time; busy  share of the waiting in which this process itself was computing
    """
    if wait < SLOW:
        return None
    start = f"{wait:.0%} of the time was spent waiting for data: "
    if workers == 0 and busy > 0.5:
        return start + f"they are decoded in the training process itself; set trainer.workers to {max(1, cores - 1)}"
    if workers == 0:
        return (
            start
            + "the disk or the network that they lie on is slow; set trainer.workers, or copy them to a local disk"
        )
    if workers < cores - 1:
        return start + f"{workers} workers decode too slowly; set trainer.workers to {cores - 1}"
    return start + "all cores decode already; make the files cheaper to read, or the batch more work for its bytes"


def out_of_memory(step: int, recipe: Recipe, couples: str) -> str:
    """The sentence for a device that ran out of memory."""
    parts = "" if couples else ", raise trainer.accumulate"
    precision = "" if recipe.trainer.precision == "bf16" else ", set trainer.precision to bf16"
    return (
        f"the device ran out of memory in step {step} with a batch_size of {recipe.batch_size}; lower batch_size"
        f"{parts}{precision}, or make items smaller with data.window or a crop among the views"
    )
