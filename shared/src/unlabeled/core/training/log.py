"""metrics.jsonl: one line for every step of a run, in order, once."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def truncate(path: Path, steps: int) -> None:
    """Cut the file before the line of step `steps`, and after the last whole one."""
    if path.exists():
        with path.open("rb+") as file:
            while True:
                start = file.tell()
                line = file.readline()
                if not line.endswith(b"\n") or json.loads(line)["step"] >= steps:
                    file.seek(start)
                    break
            file.truncate()


class Log:
    """Collects every step's scalars as tensors and writes them when told, so that the device is waited for only then.

    A line: step (0-based), epoch, loss, parts, lr, grad_norm, skipped, and wait, the share of the time since the last
    writing that was spent waiting for data. The line of a look (every `log_every` steps) has two more: health (see
    health.py) and speed (see throughput.py). Only wait and speed depend on the clock: of two equal runs all else is equal
    to the bit. What is not finite is null. The file continues at `step`: lines of steps to be done again are cut off.

    loggers  any of Lightning's, which are told what TensorBoard is
    """

    def __init__(self, run: Path, step: int, tensorboard: bool = False, loggers: Sequence[Any] = ()) -> None:
        run.mkdir(parents=True, exist_ok=True)
        self.path = run / "metrics.jsonl"
        truncate(self.path, step)
        self._file = self.path.open("a")
        self._rows: list[tuple[dict[str, Any], list[str], list[Tensor]]] = []
        self._waited, self._since = 0.0, time.perf_counter()
        self._loggers = loggers
        self._board: Any = None
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step)

    def waited(self, seconds: float) -> None:
        self._waited += seconds

    def add(self, step: int, epoch: int, out: dict[str, Any]) -> None:
        """Keep what `Step` returned for this step."""
        names = ["loss", "grad_norm", "skipped", *out["parts"]]
        values = [out["loss"], out["grad_norm"], out["skipped"], *out["parts"].values()]
        self._rows.append(({"step": step, "epoch": epoch, "lr": out["lr"]}, names, [v.detach() for v in values]))

    def flush(self, look: dict[str, dict[str, Any]] | None = None, durable: bool = False) -> dict[str, Any]:
        """Write what was kept; returns the last line, or {} where there was none.

        look: what the last line says beside. durable: survives a power cut.
        """
        line: dict[str, Any] = {}
        wait = round(self._waited / max(time.perf_counter() - self._since, 1e-9), 4)
        if self._rows:
            tensors = [t for _, _, row in self._rows for t in row]
            wide = torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32
            numbers = iter(torch.stack([t.to(wide) for t in tensors]).tolist())  # the one wait for the device
            for i, (head, names, _) in enumerate(self._rows, 1):
                loss, norm, skipped, *parts = (x if math.isfinite(x := next(numbers)) else None for _ in names)
                terms = dict(zip(names[3:], parts, strict=True))
                tail = {"loss": loss, "parts": terms, "grad_norm": norm, "skipped": bool(skipped), "wait": wait}
                line = head | tail | (_finite(look) if look and i == len(self._rows) else {})
                self._file.write(json.dumps(line) + "\n")
            self._rows.clear()
            self._waited, self._since = 0.0, time.perf_counter()
            self._draw(line)
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())
        return line

    def _draw(self, line: dict[str, Any]) -> None:
        scalars = {k: line[k] for k in ("loss", "lr", "grad_norm", "wait")}
        for group in ("parts", "health", "speed"):
            scalars |= {f"{group}/{k}": v for k, v in line.get(group, {}).items()}
        scalars = {k: v for k, v in scalars.items() if v is not None}
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, line["step"])
        for logger in self._loggers:
            logger.log_metrics(scalars, step=line["step"])

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def finish(self) -> None:
        """The run has ended: loggers that hold a connection let go of it."""
        for logger in self._loggers:
            logger.finalize("success")


def _finite(groups: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {k: v if v is None or math.isfinite(v) else None for k, v in group.items()}
        for name, group in groups.items()
    }
