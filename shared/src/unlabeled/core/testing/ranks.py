"""Two real gloo processes that live as long as the test session, and the check that ranks do not change a gradient.

def on_rank(case):                       # in the test file; runs on every rank, and alone in the test's own process
    method, batch, ctx = build(case)
    return step_and_gradients(method, share(batch), ctx)

def test_ranks(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank", "case"), on_rank("case"))
"""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
import pickle
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.contracts.batch import Batch, BatchInput, Dense, Graph, Packed
from unlabeled.core.methods.base import Context, Method


class RankFailed(Exception):
    """A task raised on some rank; the message holds every traceback."""


class RankPool:
    """`world` processes joined in one gloo group. Started at the first task and again after a failed one."""

    def __init__(self, world: int = 2, timeout: float = 60.0) -> None:
        self.world = world
        self.timeout = timeout
        self._ranks: list[tuple[SpawnProcess, Connection]] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def run(self, target: str, *args: Any) -> list[Any]:
        """What `target(*args)` returns on each rank. `target` is `module:function` or `path/to/file.py:function`.

        Raises RankFailed with the traceback of every rank that failed, or where a rank is silent for `timeout` seconds.
        """
        if not self._ranks:
            self._start()
        # bytes between our own processes; `pipe.send` would share the tensors' memory with them
        task = pickle.dumps((target, args))
        for _, pipe in self._ranks:
            pipe.send_bytes(task)
        answers = self._answers()
        failures = [f"rank {r}: {answer}" for r, (good, answer) in sorted(answers.items()) if not good]
        if failures:
            # the others may still wait in a collective, so the group is of no use any more
            self.close()
            raise RankFailed("\n".join([f"{target} failed", *failures]))
        return [answers[r][1] for r in range(self.world)]

    def _answers(self) -> dict[int, tuple[bool, Any]]:
        """(succeeded, value or traceback) by rank; after a first failure the others get one more second."""
        answers: dict[int, tuple[bool, Any]] = {}
        deadline = time.monotonic() + self.timeout
        while len(answers) < self.world:
            waiting = {pipe: r for r, (_, pipe) in enumerate(self._ranks) if r not in answers}
            ready = wait(list(waiting), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                failed = any(not good for good, _ in answers.values())
                return answers | ({} if failed else dict.fromkeys(waiting.values(), (False, "no answer in time")))
            for pipe in ready:
                assert isinstance(pipe, Connection)
                try:
                    answer = pickle.loads(pipe.recv_bytes())
                except EOFError:
                    answer = (False, "the process ended")
                answers[waiting[pipe]] = answer
                if not answer[0]:
                    deadline = min(deadline, time.monotonic() + 1.0)
        return answers

    def _start(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        spawn = multiprocessing.get_context("spawn")
        for r in range(self.world):
            ours, theirs = spawn.Pipe()
            arguments = (theirs, r, self.world, f"{self._folder.name}/store", self.timeout)
            process = spawn.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self._ranks.append((process, ours))

    def close(self) -> None:
        """Ends the processes; those that do not end by themselves are killed."""
        for _, pipe in self._ranks:
            pipe.close()
        for process, _ in self._ranks:
            process.join(timeout=2.0)
            if process.is_alive():
                process.kill()
                process.join()
            process.close()
        self._ranks = []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _serve(pipe: Connection, rank: int, world: int, store: str, timeout: float) -> None:
    """A rank's life: answer tasks until the pipe closes."""
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=timeout)
    )
    while True:
        try:
            target, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            break
        try:
            answer = (True, function(target)(*args))
        except BaseException:
            answer = (False, traceback.format_exc())
        try:
            pipe.send_bytes(pickle.dumps(answer))
        except (BrokenPipeError, ConnectionResetError):
            break
    dist.destroy_process_group()


def function(target: str) -> Any:
    where, _, name = target.rpartition(":")
    if not where.endswith(".py"):
        return getattr(importlib.import_module(where), name)
    # test files are no importable modules
    spec = importlib.util.spec_from_file_location(f"task_{Path(where).stem}", where)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return getattr(module, name)


def share(batch: Batch) -> Batch:
    """The contiguous rows of `batch` that belong to this rank; all of them outside a process group."""
    n = batch.size // ranks.world()
    rows = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    return replace(
        batch,
        inputs={name: _rows(x, rows) for name, x in batch.inputs.items()},
        index=batch.index[rows],
        record=batch.record[rows],
        group=batch.group[rows],
        weight=batch.weight[rows],
    )


def _rows(x: BatchInput, rows: slice) -> BatchInput:
    if isinstance(x, Dense):
        return Dense(x.values[rows], x.valid[rows], x.spacing[rows])
    offsets = x.offsets[rows.start : rows.stop + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    part = Packed(x.values[first:last], x.valid[first:last], x.coords[first:last], offsets - first)
    if not isinstance(x, Graph):
        return part
    mine = ((x.edges >= first) & (x.edges < last)).all(0)
    return Graph(part.values, part.valid, part.coords, part.offsets, x.edges[:, mine] - first)


def step_and_gradients(method: Method, batch: Batch, ctx: Context) -> dict[str, Tensor]:
    """Loss, gradients averaged over ranks as DDP does, and buffers after one step on this rank's batch."""
    out = method.step(method.on_batch(batch, ctx), ctx)
    out["loss"].backward()
    result = {"loss": out["loss"].detach()}
    for name, p in method.named_parameters():
        if p.grad is not None:
            result[f"grad {name}"] = ranks.total(p.grad) / ranks.world()
    return result | {f"buffer {name}": b.clone() for name, b in method.named_buffers()}


def assert_same(by_rank: list[dict[str, Tensor]], alone: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    """Every rank's result equals the one of a single process, in every tensor."""
    for result in by_rank:
        torch.testing.assert_close(result, alone, rtol=tolerance, atol=tolerance)
