"""Files written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unlabeled.core.contracts import RequestError


def write_atomic(path: Path, content: bytes | Callable[[Path], Any], mode: int = 0o644) -> None:
    """Write through a sibling temp file, fsync, replace and fsync of the folder, so that a kill leaves old or new.

    content: the bytes, or a function that writes to the path it is given.
    """
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if callable(content):
            content(temp)
        else:
            temp.write_bytes(content)
        temp.chmod(mode)
        sync(temp)
        temp.replace(path)
        sync(path.parent)
    finally:
        temp.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """The order of keys is kept: that of an encoder's inputs is the order of its tokens."""
    write_atomic(path, (json.dumps(value, indent=2) + "\n").encode())


def outside(data: Path, output: Path) -> None:
    """Raises RequestError where an output would lie among the data, and be read as data the next time."""
    if data.is_dir() and output.resolve().is_relative_to(data.resolve()):
        raise RequestError(
            f"{output} lies inside the data folder {data}, and would be read as data; choose another place"
        )


def free(output: Path) -> None:
    """Raises RequestError where the folder to write is in use or cannot be made: before the work, not after it."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise RequestError(f"{output} exists; choose another folder")
    place = next(p for p in output.absolute().parents if p.exists())
    if not place.is_dir():
        raise RequestError(f"{output} cannot be made: {place} is a file; choose another folder")
    _writable(output, place)


def free_file(output: Path) -> None:
    """The same for a file, whose folder must be there."""
    if output.exists():
        raise RequestError(f"{output} exists; choose another name with -o")
    if not output.parent.is_dir():
        raise RequestError(f"{output}: there is no folder {output.parent}; make it first")
    _writable(output, output.parent)


def _writable(output: Path, place: Path) -> None:
    if not os.access(place, os.W_OK | os.X_OK):
        raise RequestError(f"{output} cannot be written: {place} is read-only here; choose another place")


@contextlib.contextmanager
def folder_atomic(path: Path) -> Any:
    """A sibling temp folder that becomes `path` when the block ends well, replacing what was there."""
    temp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temp, ignore_errors=True)
    temp.mkdir(parents=True)
    try:
        yield temp
        for file in sorted(temp.rglob("*")):
            sync(file)
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.replace(old)
            temp.replace(path)
            shutil.rmtree(old)
        else:
            temp.replace(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temp, ignore_errors=True)


def sync(path: Path) -> None:
    """fsync of a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# an absolute path or one below the home folder, at the start of a word or after a quote, bracket, colon or equals sign
_PATH = re.compile(r"""(?<![^\s'"(\[:=,])(?:~|[A-Za-z]:)?[/\\](?:[^\s'"/\\]+[/\\])*([^\s'"/\\:;,)\]]+)""")


def without_folders(text: str) -> str:
    """`text` with every absolute path cut to its last part, so that it tells nothing of this machine."""
    return _PATH.sub(r"\1", text)
