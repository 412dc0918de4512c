"""Ctrl-C, SIGTERM, and SIGUSR1 (SLURM's word before a time limit) end a run between two steps, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupt:
    """While entered, a first signal only sets `asked`; a second one has its default effect and ends the process.

    Lightning answers SIGUSR1 under SLURM with a checkpoint of its own and a requeue, but not where a handler is set.
    Signals reach the main thread only; in another thread this does nothing. An ignored signal stays ignored: it is for
    a parent to answer, which then sends another.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {s: h for s in _SIGNALS if (h := signal.getsignal(s)) != signal.SIG_IGN}
        self.arm()
        return self

    def arm(self) -> None:
        """Take the signals (again: Lightning sets its own handlers as it starts)."""
        for s in self._before:
            signal.signal(s, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for s in self._before:
            signal.signal(s, signal.SIG_DFL)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for s, handler in self._before.items():
            signal.signal(s, handler)
