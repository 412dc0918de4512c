"""Checkpoints: one file per save, whole or absent, checked by its hash, never unpickled.

The training state is ours and Lightning only drives: its own save keeps no random state, and it moves the file from
$TMPDIR, which is a copy where that is another mount, so that a kill can leave half a file in the place of a good one.

A file is what `torch.save` writes, followed by MAGIC and the SHA-256 of all before it. One file needs one replace, and
`torch.load` still reads it, since a zip archive is found from its end and may be followed by other bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from unlabeled.core.contracts import RunFailed
from unlabeled.core.files import write_atomic

log = logging.getLogger(__name__)

State = dict[str, Any]
ForGood = Callable[[int], bool]  # of a step: whether its checkpoint stays, for other runs to branch off from
MAGIC = b"unlabeled sha256"
TRAILER = len(MAGIC) + hashlib.sha256().digest_size


class _Hashed:
    """A file that hashes what passes through it, so that a save reads nothing back."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.hash = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()


def path_of(folder: Path, step: int) -> Path:
    return folder / f"step-{step:08d}.pt"


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def saved(folder: Path) -> list[Path]:
    """Checkpoints in the folder, newest first."""
    return sorted(folder.glob("step-????????.pt"), reverse=True)


def write(state: State, path: Path) -> None:
    with path.open("wb") as file:
        hashed = _Hashed(file)
        torch.save(state, hashed)  # type: ignore[arg-type]  # asks of a file only write and flush
        file.write(MAGIC + hashed.hash.digest())


def save(folder: Path, state: State, keep: int, for_good: ForGood = lambda step: False) -> Path:
    """Write `state` (tensors, numbers, strings and containers of them; "step" in it), then `prune`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = path_of(folder, state["step"])
    write_atomic(path, lambda temp: write(state, temp))
    prune(folder, keep, for_good)
    return path


def prune(folder: Path, keep: int, for_good: ForGood = lambda step: False) -> None:
    """Remove all but the newest `keep` and those kept for good; at a start too, since a kill may have come before it."""
    for old in saved(folder)[keep:]:
        if not for_good(step_of(old)):
            old.unlink(missing_ok=True)


def read(path: Path) -> State:
    """The state in `path`, on the CPU. Raises RunFailed where the file is truncated, altered or holds a pickle."""
    size = path.stat().st_size - TRAILER
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for start in range(0, max(size, 0), 1 << 22):
            digest.update(file.read(min(1 << 22, size - start)))
        if file.read() != MAGIC + digest.digest():
            raise RunFailed(f"{path} is truncated or was altered; delete it to resume from the one before")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types here, none of them of its own
        reason = str(error).partition("\n")[0]
        raise RunFailed(f"{path} is no training state ({reason}); delete it to resume from the one before") from None
    if not isinstance(state, dict) or state.get("step") != step_of(path):
        raise RunFailed(f"{path} holds no state of its step; delete it to resume from the one before")
    return state


def newest(folder: Path) -> State | None:
    """The newest good state, or None where nothing was saved yet.

    A broken file is named in the log and set aside as `*.broken`. Raises RunFailed where every file is broken.
    """
    for stray in folder.glob(".step-*.tmp"):
        stray.unlink(missing_ok=True)
    paths = saved(folder)
    for path in paths:
        try:
            return read(path)
        except FileNotFoundError:
            continue  # another rank has just set it aside
        except RunFailed as error:
            log.warning("%s", error)
            with contextlib.suppress(FileNotFoundError):
                path.replace(path.with_suffix(".broken"))
    if paths:
        raise RunFailed(f"no checkpoint in {folder} can be read; start the run anew in another folder")
    return None
