"""Throughput: counted operations, rates, shares, and what is said about them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from unlabeled.core.contracts import RunFailed
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.base import Context
from unlabeled.core.testing.toys import CHANNELS, LENGTH, WIDTH, Denoiser, loader, recipe
from unlabeled.core.training import checkpoint
from unlabeled.core.training.fit import fit
from unlabeled.core.training.log import read
from unlabeled.core.training.prefetch import prefetched
from unlabeled.core.training.throughput import Flops, Meter, advise, peak


def test_products_convolutions_and_their_gradients_are_counted() -> None:
    net, x = nn.Linear(3, 5), torch.randn(7, 3)
    with Flops() as forward:
        y = net(x)
    assert forward.total == 2 * 7 * 3 * 5
    with Flops() as backward:
        y.sum().backward()
    assert backward.total == 2 * 7 * 3 * 5  # the weights' gradient; the input asks for none
    with Flops() as conv:
        nn.Conv1d(2, 4, 3)(torch.randn(1, 2, 10))
    assert conv.total == 2 * 4 * 8 * 2 * 3  # 8 places, 4 channels, each a product over 2 x 3


def test_a_step_is_counted_once_and_the_count_is_kept(tmp_path: Path) -> None:
    # forward and weight gradient of two layers, and the input's gradient of the second: 5 products of 4 rows
    expected = 5 * 2 * 4 * CHANNELS * LENGTH * WIDTH
    fit(Denoiser(), loader(), recipe(10), tmp_path, resume=False)
    table = read(tmp_path / "metrics.jsonl")
    assert [line["speed"]["flops"] for line in table if "speed" in line] == [expected] * 4
    state = checkpoint.newest(tmp_path / "checkpoints")
    assert state is not None and state["flops"] == expected
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["steps"] == 10 and summary["flops"] == expected and summary["mfu"] is None
    assert summary["samples_per_s"] == pytest.approx(40 / summary["seconds"], rel=0.2)
    assert set(summary) == {
        "steps", "ranks", "device", "seconds", "samples_per_s", "tokens_per_s", "flops", "mfu", "wait", "advice",
        "skipped", "skips", "rollbacks", "alarms", "health", "start",
    }  # fmt: skip


def test_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 2.0, 6.0, 8.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    meter = Meter(recipe(precision="bf16"), torch.device("cpu"))
    meter.peak = 1000.0
    _, batch = next(loader().batches(0, 1))
    for _ in range(5):
        meter.step(batch)
    # 5 steps of 4 items and 100 operations in 2 s: 10 items and 250 operations a second, a quarter of the peak
    assert meter.lap(100) == {"samples_per_s": 10.0, "tokens_per_s": None, "flops": 100, "mfu": 0.25}
    meter.step(batch)
    assert meter.lap(100)["samples_per_s"] == 1.0  # 4 items in the 4 s since
    meter.waited(2.0, 1.5)
    summary = meter.summary(100)
    assert (summary["samples_per_s"], summary["wait"]) == (3.0, 0.25)  # 24 items in 8 s, 2 of them waiting
    assert "decoded in the training process itself" in summary["advice"]


@pytest.mark.parametrize(
    ("name", "precision", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "bf16", 756e12),
        ("NVIDIA GH200 480GB", "32", 67e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("Tesla V100-SXM2-16GB", "bf16", None),
        ("NVIDIA H200", "64", None),
        ("", "32", None),
    ],
)
def test_peaks(name: str, precision: str, rate: float | None) -> None:
    assert peak(name, precision) == rate


@pytest.mark.parametrize(
    ("wait", "busy", "workers", "said"),
    [
        (0.05, 1.0, 0, None),
        (0.4, 0.9, 0, "40% of the time was spent waiting for data: they are decoded in the training process itself; set "
         "trainer.workers to 7"),
        (0.4, 0.1, 0, "the disk or the network"),
        (0.4, 0.1, 2, "2 workers decode too slowly; set trainer.workers to 7"),
        (0.4, 0.1, 7, "all cores decode already"),
    ],
)  # fmt: skip
def test_advice(wait: float, busy: float, workers: int, said: str | None) -> None:
    advice = advise(wait, busy, workers, cores=8)
    assert advice is None if said is None else advice is not None and said in advice


class Hungry(Denoiser):
    def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
        if ctx.step == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return super().step(batch, ctx)


@pytest.mark.parametrize("loop", ["plain", "lightning"])
def test_no_memory_is_one_sentence_that_says_what_to_lower(loop: str, tmp_path: Path) -> None:
    said = (
        r"out of memory in step 2 with a batch_size of 4; lower batch_size, raise trainer.accumulate, set trainer.prec"
    )
    with pytest.raises(RunFailed, match=said):
        fit(Hungry(), loader(), recipe(loop=loop), tmp_path, resume=False)
    Hungry.couples = "items"
    try:
        with pytest.raises(RunFailed, match="lower batch_size, or make items smaller"):
            fit(Hungry(), loader(), recipe(precision="bf16"), tmp_path, resume=False)
    finally:
        Hungry.couples = ""


def test_on_the_cpu_nothing_is_fetched_ahead() -> None:
    taken: list[int] = []

    def source() -> Any:
        for i, item in enumerate(loader().batches(0, 4)):
            taken.append(i)
            yield item

    batches = prefetched(source(), torch.device("cpu"))
    next(batches)
    assert taken == [0]
    assert len(list(batches)) == 3
