"""The key of the anonymiser: from a file or an environment variable, never from a command line, which others can see."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from unlabeled.core.contracts import RequestError
from unlabeled.core.files import free_file, write_atomic

VARIABLE = "UNLABELED_NETWORK_KEY"
SIZE = 32  # bytes


def read_key(file: Path | None) -> bytes:
    """32 bytes: those of the file, or its 64 hexadecimal digits; no file: the digits in the environment variable.

    Raises RequestError where there is no key; no message tells anything of it.
    """
    if file is None:
        where, text = VARIABLE, os.environ.get(VARIABLE, "").encode()
        if not text:
            raise RequestError(f"there is no key: name its file by --key, or set {VARIABLE}; --new-key FILE makes one")
    else:
        where = str(file)
        try:
            text = file.read_bytes()
        except OSError as error:
            raise RequestError(f"the key {file} cannot be read ({error.strerror}); --new-key makes one") from None
    if file is not None and len(text) == SIZE:
        return text
    try:
        key = bytes.fromhex(text.decode("ascii").strip())
    except ValueError:  # UnicodeDecodeError is one
        key = b""
    if len(key) != SIZE:
        raise RequestError(
            f"{where} holds no key: it must be {2 * SIZE} hexadecimal digits; make one with --new-key FILE"
        )
    return key


def new_key(file: Path) -> bytes:
    """Draw a key and write it into a new file that only its owner can read."""
    free_file(file)
    key = secrets.token_bytes(SIZE)
    write_atomic(file, (key.hex() + "\n").encode(), mode=0o600)
    return key
