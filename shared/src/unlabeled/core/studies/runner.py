"""Run jobs side by side in fresh processes; each leaves a file, so an interrupted study goes on where it stood."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast


@dataclass(frozen=True)
class Job:
    """`call`, which can be pickled, writes `file`; `after` names jobs it reads from."""

    name: str
    file: Path
    call: Callable[[], Any]
    after: tuple[str, ...] = ()


def run(jobs: Sequence[Job], processes: int, on_done: Callable[[int, int, str], None] | None = None) -> None:
    """Run every job whose file is missing, each after those it needs, in the order given.

    on_done(done, total, name) is called once at the start with the name "" and after every job. An error of a job, or
    KeyboardInterrupt, ends the other processes (pretraining saves a checkpoint first) and is raised. SIGTERM is raised
    as KeyboardInterrupt.
    """
    done = {job.name for job in jobs if job.file.exists()}
    left = [job for job in jobs if job.name not in done]
    report = on_done or (lambda done, total, name: None)
    report(len(done), len(jobs), "")
    if not left:
        return
    before = set(multiprocessing.active_children())
    with _single_threaded(), _terminable():
        pool = ProcessPoolExecutor(min(processes, len(left)), multiprocessing.get_context("spawn"), _start)
        try:
            running: dict[Future[Any], Job] = {}
            while left or running:
                # never more than the processes can take, so that nothing is queued when they are told to stop
                for job in [j for j in left if done.issuperset(j.after)][: processes - len(running)]:
                    left.remove(job)
                    running[pool.submit(_ending, job.call)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    future.result()
                    done.add(job.name)
                    report(len(done), len(jobs), job.name)
        except BaseException:
            for child in set(multiprocessing.active_children()) - before:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(cast(int, child.pid), signal.SIGUSR1)
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        pool.shutdown(wait=True)


@contextlib.contextmanager
def _single_threaded() -> Iterator[None]:
    """Processes started inside compute with one thread: they share the machine, and sums then have one order."""
    name = "OMP_NUM_THREADS"
    old = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if old is None:
            del os.environ[name]
        else:
            os.environ[name] = old


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM, which would end this process and leave its children, raises KeyboardInterrupt (in the main thread)."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or before == signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _ending(call: Callable[[], Any]) -> Any:
    """In each process: an interrupted job has saved what it can, and its process ends with it.

    The pool would keep the process for another job, and from Python 3.13 on wait for it for ever.
    """
    try:
        return call()
    except KeyboardInterrupt:
        os._exit(130)


def _start() -> None:
    """In each process: what a terminal or a scheduler sends to the whole group is the parent's to handle.

    The parent sends SIGUSR1, which so comes once: a second signal would end pretraining before it has saved.
    """
    import torch

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
