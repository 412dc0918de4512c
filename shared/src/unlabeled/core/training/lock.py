"""One training process at a time in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from unlabeled.core import ranks
from unlabeled.core.contracts import RequestError
from unlabeled.core.launch import leader

try:
    import fcntl
except ImportError:  # not on Windows: there nothing is locked
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Hold `run`/.lock on the first rank; it ends with the process, and the file stays. Raises RequestError where held.

    `lockf` and not `flock`: a forked worker of the loader would inherit that and hold it a while after a killed run.
    """
    if fcntl is None or not leader() or ranks.rank() != 0:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    with (run / ".lock").open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise RequestError(f"another process is training in {run}; wait for it or end it") from None
        except OSError:
            pass  # a file system without locks
        yield
