"""A warm process that forks one training run per line of standard input and reports how each ended.

A line is a job of `unlabeled.core.testing.train` in JSON, with two more keys:
record  a file that gets one line for every operation of the run on files: its name
kill    [operation number, "before" | "during" | "after"]: where the process sends itself SIGKILL;
        or ["step", step, signal, ...]: the signals it sends itself in that step

Forking costs milliseconds where a fresh interpreter costs seconds; the forked process is a real one and dies for real.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch  # noqa: F401  (imported once, before the forks)
import torch

from unlabeled.core.testing import toys
from unlabeled.core.testing.train import train
from unlabeled.core.training import checkpoint


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def watch(record: Path | None, at: int | None, when: str | None) -> None:
    """Count every write of a state, fsync, replace and unlink; die before, during or after number `at`."""
    count = 0

    def watched(name: str, do: Callable[..., Any], half: Callable[..., Any] | None = None) -> Callable[..., Any]:
        def operation(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            number, count = count, count + 1
            if record:
                with record.open("a") as file:
                    file.write(name + "\n")
            if number == at and when == "before":
                die()
            if number == at and when == "during" and half:
                half(*args, **kwargs)
                die()
            try:
                return do(*args, **kwargs)
            finally:  # also after an operation that failed, such as the unlink of a name that is gone
                if number == at and when == "after":
                    die()

        return operation

    write = checkpoint.write

    def half_written(state: checkpoint.State, path: Path) -> None:
        write(state, path)
        os.truncate(path, path.stat().st_size // 2)

    checkpoint.write = watched("write", write, half_written)
    os.fsync = watched("fsync", os.fsync)
    os.replace = watched("replace", os.replace)
    os.unlink = watched("unlink", os.unlink)


def signal_in(step: int, numbers: list[int]) -> None:
    inner = toys.Denoiser.step

    def fatal(self: toys.Denoiser, batch: Any, ctx: Any) -> dict[str, Any]:
        out = inner(self, batch, ctx)
        if ctx.step == step:
            for number in numbers:
                os.kill(os.getpid(), number)
        return out

    toys.Denoiser.step = fatal  # type: ignore[method-assign]


def run(job: dict[str, Any]) -> None:
    record, kill = job.pop("record", None), job.pop("kill", None)
    if kill and kill[0] == "step":
        signal_in(kill[1], kill[2:])
    elif record or kill:
        watch(Path(record) if record else None, *(kill or (None, None)))
    train(job)


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                run(json.loads(line))
            except KeyboardInterrupt:
                os._exit(130)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
                os._exit(1)
            os._exit(0)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main()
