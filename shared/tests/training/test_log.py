"""metrics.jsonl: every step once, whole lines, exact numbers."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from unlabeled.core.testing.toys import Denoiser, loader, recipe
from unlabeled.core.training.fit import fit
from unlabeled.core.training.log import Log, read, truncate


def out(loss: float, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    value = torch.tensor(loss, dtype=dtype)
    return {"loss": value, "grad_norm": value, "skipped": ~value.isfinite(), "lr": 0.1, "parts": {"a": value}}


def test_numbers_are_exact_and_what_is_not_finite_is_null(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    third = torch.tensor(1 / 3).item()  # 1/3 in float32 is not 1/3 in float64
    log.add(0, 0, out(1 / 3))
    log.add(1, 0, out(float("nan")))
    assert read(log.path) == []  # nothing is read from the device before it is told to
    last = log.flush()
    log.add(2, 1, out(1 / 3, torch.float64))
    log.flush()
    log.close()
    a, b, c = read(log.path)
    assert (a["loss"], a["parts"]["a"], a["step"], a["epoch"], a["skipped"]) == (third, third, 0, 0, False)
    assert (b["loss"], b["grad_norm"], b["skipped"]) == (None, None, True)
    assert last == b
    assert (c["loss"], c["epoch"]) == (1 / 3, 1)


def test_one_wait_for_the_device_per_flush(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    original = torch.Tensor.tolist

    def counted(t: torch.Tensor) -> Any:
        reads.append(t.numel())
        return original(t)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    log = Log(tmp_path, 0)
    for step in range(5):
        log.add(step, 0, out(1.0))
    log.flush()
    log.close()
    assert reads == [5 * 4]  # loss, norm, flag and one part of five steps at once


@pytest.mark.parametrize(
    ("content", "steps", "kept"),
    [
        ('{"step": 0}\n{"step": 1}\n{"step": 2}\n', 2, [0, 1]),
        ('{"step": 0}\n{"step": 1}\n{"ste', 5, [0, 1]),  # torn by a kill
        ('{"step": 0}\n{"ste', 0, []),
        ('{"step": 0}\n', 1, [0]),
        ("", 3, []),
    ],
)
def test_truncation(content: str, steps: int, kept: list[int], tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    truncate(path, steps)
    assert [line["step"] for line in read(path)] == kept
    assert path.read_text() == "".join(json.dumps({"step": s}) + "\n" for s in kept)


def test_the_share_of_waiting_is_of_the_time_since_the_last_flush(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 108.0, 108.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    log = Log(tmp_path, 0)
    log.waited(1.5)
    log.waited(0.5)
    log.add(0, 0, out(1.0))
    assert log.flush()["wait"] == 0.25  # 2 s of 8 s
    log.close()


def test_tensorboard_shows_what_the_file_says(tmp_path: Path) -> None:
    fit(Denoiser(), loader(), recipe(7, tensorboard=True, save_every=100), tmp_path, resume=False)
    table = read(tmp_path / "metrics.jsonl")
    board = EventAccumulator(str(tmp_path / "tensorboard"))
    board.Reload()
    looked = {"health/loss", "health/gradient", "speed/samples_per_s", "speed/flops"}  # too few rows for a spread
    assert set(board.Tags()["scalars"]) == {"loss", "lr", "grad_norm", "wait", "parts/error"} | looked
    # the last line of each writing: steps 2, 5 (every third) and 6 (the end)
    points = [(e.step, e.value) for e in board.Scalars("loss")]
    assert points == [(s, pytest.approx(table[s]["loss"], rel=1e-6)) for s in (2, 5, 6)]
