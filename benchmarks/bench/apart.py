"""A work in a process of its own, where both sides would else share what a library keeps for the whole process."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from bench.row import Work


def apart(make: Callable[..., Work], *given: Any) -> Work:
    """`make(*given)` in a new process; each call does the work there once and waits for its end."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    child = context.Process(target=_serve, args=(there, make, given), daemon=True)
    child.start()
    there.close()

    def work() -> None:
        here.send("once more")
        here.recv()

    return work


def _serve(calls: Connection, make: Callable[..., Work], given: tuple[Any, ...]) -> None:
    work = make(*given)
    with suppress(EOFError):  # the caller has ended
        while True:
            calls.recv()
            work()
            calls.send("done")
