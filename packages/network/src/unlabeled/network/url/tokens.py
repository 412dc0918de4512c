"""Tokens of URLs: bytes, or byte pairs learned from the user's own URLs; with the part that each stands in."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import typer
from numpy.typing import NDArray

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.sample import AXIS_OF_TEXT, UNIT_OF_IDS, Input
from unlabeled.core.data import texts
from unlabeled.network.options import ReaderOptions
from unlabeled.network.url.urls import PARTS, URL

CHANNELS = ("id", "part")
PART_IDS = len(PARTS) + 1
SMALLEST = texts.BYTES.size  # padding and every byte

# No token reaches over a delimiter, and so none over two parts; case is kept.
_WORDS = r"://|%[0-9A-Fa-f]{2}|\p{L}+|\p{N}+|[^\p{L}\p{N}]"


@dataclass(frozen=True)
class URLTokens:
    """ids of bytes, and back: decode(encode(raw)) == raw for any bytes, valid UTF-8 or not.

    pieces  the bytes of every id; id 0 is padding and holds none
    of      ids of bytes
    """

    pieces: tuple[bytes, ...]
    of: Callable[[bytes], list[int]]

    @property
    def size(self) -> int:
        """What the `vocabulary` of an encoder has to be for the channel `id`; PART_IDS for `part`."""
        return len(self.pieces)

    def encode(self, raw: bytes) -> list[int]:
        return self.of(raw)

    def decode(self, ids: Sequence[int]) -> bytes:
        return b"".join(self.pieces[i] for i in ids)

    def rows(self, url: URL, limit: int | None = None) -> NDArray[np.uint16]:
        """(L, 2) the first `limit` tokens: ids, and the part of each one's first byte."""
        ids = self.encode(url.raw)[:limit]
        lengths = [len(self.pieces[i]) for i in ids]
        firsts = np.cumsum([0, *lengths[:-1]]) if ids else np.zeros(0, int)
        return np.stack([np.array(ids, np.uint16), url.part_of_bytes()[firsts].astype(np.uint16)], 1)


def url_input(rows: NDArray[np.uint16]) -> Input:
    """A URL's tokens (L, 2) as an input; none at all is one token that is not valid."""
    data = rows if len(rows) else np.zeros((1, 2), np.uint16)
    return Input(
        data=data,
        channels=CHANNELS,
        units=(UNIT_OF_IDS,) * 2,
        layout="packed",
        unit=AXIS_OF_TEXT,
        valid=None if len(rows) else np.zeros(1, bool),
        coords=np.arange(len(data), dtype=np.float64)[:, None],
    )


BYTES = URLTokens((b"", *(bytes([b]) for b in range(256))), lambda raw: [b + 1 for b in raw])


@cache
def tokens(name: str) -> URLTokens:
    """`bytes`, or the byte pairs of a tokenizer.json as the verb `tokenizer` makes it.

    The library reads text alone, so bytes that are no UTF-8 become the tokens of single bytes, and what is between them
    is read as text. Ids are those of the file plus 1, as 0 is padding.

    Raises RequestError where the file is absent, is none, or does not give every byte back.
    """
    if name == "bytes":
        return BYTES
    made = texts.tokenizer(name)
    vocabulary: dict[str, int] = json.loads(Path(name).read_text())["model"].get("vocab", {})
    letters = _letters()
    try:
        byte = [vocabulary[letters[b]] for b in range(256)]
        back = {letter: b for b, letter in letters.items()}
        pieces = {i: bytes(back[c] for c in piece) for piece, i in vocabulary.items()}
        tokens = URLTokens(
            (b"", *(pieces[i] for i in range(len(pieces)))), lambda raw: list(_byte_pairs(raw, made, byte))
        )
        whole = made.size == len(pieces) and tokens.decode(tokens.encode(_PROBE)) == _PROBE
    except (KeyError, TypeError, IndexError):
        whole = False
    if not whole:
        raise RequestError(
            f"{name} does not give every byte of a URL back; make one by unlabeled-network tokenizer, or use bytes"
        )
    return tokens


_PROBE = "HTTP://User@ex-Ample.com:80/%7eA//b c?Q=é&q=名#[PAD]".encode() + bytes(range(256))


def _byte_pairs(raw: bytes, made: texts.Tokenizer, byte: Sequence[int]) -> Iterator[int]:
    for text, invalid in _valid_stretches(raw):
        if text:
            yield from (i + 1 for i in made.ids(text))
        yield from (byte[b] + 1 for b in invalid)


def _valid_stretches(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """Stretches of valid UTF-8, each with the invalid bytes that follow it."""
    while raw:
        try:
            yield raw.decode("utf-8"), b""
            return
        except UnicodeDecodeError as error:
            yield raw[: error.start].decode("utf-8"), raw[error.start : error.end]
            raw = raw[error.end :]


@cache
def _letters() -> dict[int, str]:
    """The letter that stands for a byte in byte-level pairs (Radford et al. 2019, GPT-2): itself where it can be seen."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = (b for b in range(256) if b not in seen)
    return {b: chr(b) for b in seen} | {b: chr(256 + n) for n, b in enumerate(others)}


def train(urls: Sequence[str], size: int) -> Any:
    """Byte pairs of URLs (Sennrich et al. 2016), at most `size` ids with padding; the library's tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.train_from_iterator(
        urls,
        trainers.BpeTrainer(
            vocab_size=size - 1,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return made


def tokenizer(
    urls: Path = typer.Argument(..., help="folder or file of URLs: .urls, or .csv with a column url"),
    to: Path = typer.Option(..., "-o", help="file to write, as tokenizer.json"),
    size: int = typer.Option(
        5000, "--size", help=f"number of tokens, {SMALLEST} to 65535: all bytes, and learned ones"
    ),
) -> None:
    """Learn the tokens of your URLs: byte pairs that keep case and stay within one part of a URL."""
    from unlabeled.core.cli.shell import out
    from unlabeled.core.files import free_file, write_atomic
    from unlabeled.network import kinds
    from unlabeled.network.url import lists as url_lists

    free_file(to)
    if not SMALLEST <= size <= 65535:
        raise RequestError(f"--size {size} is out of range; give a number from {SMALLEST} to 65535")
    options = ReaderOptions(kind="urls")
    found = kinds.files(urls, options) if urls.exists() else []
    if not found:
        raise RequestError(f"{urls} holds no list of URLs; name a folder or a file that ends in .urls or .csv")
    lines = [url for path in found for url in url_lists.texts(path, path.name)]
    made = train(lines, size)
    write_atomic(to, made.to_str().encode())
    out.print(f"{made.get_vocab_size() + 1} tokens from {len(lines)} URLs of {len(found)} files: {to}", markup=False)
