"""Texts: strings as ids, and ids as an input of a sample."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.sample import AXIS_OF_TEXT, UNIT_OF_IDS, Input


@dataclass(frozen=True)
class Tokenizer:
    """ids: of a string, each below `size`, which is what the `vocabulary` of an encoder has to be."""

    ids: Callable[[str], Sequence[int]]
    size: int


def _utf8(text: str) -> list[int]:
    return [byte + 1 for byte in text.encode()]


# needs no file and knows every language: UTF-8 bytes from 1 on; 0 is left for padding
BYTES = Tokenizer(_utf8, 257)


def tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer of a `tokenizer.json` file, as Hugging Face's library `tokenizers` writes and reads it.

    Raises RequestError where the library is missing, or the file is absent or none of its kind.
    """
    try:
        library: Any = importlib.import_module("tokenizers")
    except ImportError:
        raise RequestError(
            f"the tokenizer {path} needs the library tokenizers; pip install 'unlabeled-core[export]'"
        ) from None
    if not Path(path).is_file():
        raise RequestError(f"the tokenizer {path} is absent here; put the file there, or use bytes")
    try:
        made = library.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain Exception
        first = " ".join(str(error).split())[:120]
        raise RequestError(
            f"{path} is no tokenizer.json ({first}); name the file that the tokenizer was saved to"
        ) from None
    return Tokenizer(lambda text: list(made.encode(text).ids), made.get_vocab_size())


def text_input(text: str, tokenizer: Tokenizer = BYTES, limit: int | None = None, source: str = "") -> Input:
    """A text as packed tokens: one channel of ids, each at its place, the first `limit` of them.

    An empty text, or none at all, is one token that is not valid: the item has no text, and keeps its other inputs.
    """
    ids = list(tokenizer.ids(text))[:limit]
    return Input(
        data=np.array(ids or [0], np.float32)[:, None],
        channels=("id",),
        units=(UNIT_OF_IDS,),
        layout="packed",
        unit=AXIS_OF_TEXT,
        valid=np.full(len(ids) or 1, bool(ids)),
        coords=np.arange(len(ids) or 1, dtype=np.float64)[:, None],
        source=source,
    )
