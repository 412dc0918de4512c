"""Lists of URLs: `.urls`, one on each line, and `.csv` with a column `url`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from unlabeled.core.contracts import BadInput, Sample
from unlabeled.network.kinds import stem
from unlabeled.network.options import ReaderOptions
from unlabeled.network.url.tokens import tokens, url_input
from unlabeled.network.url.urls import parse

_COLUMN = "url"
_LOOKED_AT = 1 << 16  # bytes that are looked at to tell whether a file is text
_CONTROLS = bytes(sorted({*range(0x20), 0x7F} - set(b"\t\r\n")))


def read(path: Path, name: str, options: ReaderOptions) -> list[Sample]:
    """The URLs of one list, in its order; `name` is the file's path relative to its folder.

    A key is the name without its ending, # and the line's number from 1. Of URLs with one canonical form the first is
    kept, and of each its first options.length tokens. No URL is left out because it cannot be parsed: it has a flag.
    meta, which is never written: `url`, the canonical form.

    Raises BadInput where the file is no text, or holds no URL or no column `url`.
    """
    encoder = tokens(options.tokenizer)
    samples: list[Sample] = []
    seen: set[str] = set()
    about = {"blank lines left out": 0, "repeated URLs left out": 0}
    for line, text in _lines(path, name):
        if not text:
            about["blank lines left out"] += 1
            continue
        url = parse(text)
        if url.canonical in seen:
            about["repeated URLs left out"] += 1
            continue
        seen.add(url.canonical)
        rows = encoder.rows(url)
        flags = [f"not parsed: {url.fault}"] if url.fault else []
        if len(rows) > options.length:
            flags.append(f"cut to {options.length} tokens")
        samples.append(
            Sample(
                inputs={"x": url_input(rows[: options.length])},
                key=f"{stem(name)}#{line}",
                group=url.group,
                index=len(samples),
                meta={"url": url.canonical, "flags": flags},
            )
        )
    if not samples:
        raise BadInput(f"{name} holds no URL; put one on each line, or take the file away")
    samples[0].meta["flags"].extend(f"{what}: {n}" for what, n in about.items() if n)
    return samples


def texts(path: Path, name: str) -> list[str]:
    """The URLs of one list that are UTF-8, each as it is written. Raises BadInput as `read`."""
    return [text for _, text in _lines(path, name) if text and not any("\udc80" <= c <= "\udcff" for c in text)]


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """(line, what stands there), invalid bytes as surrogates. The end of a line is the only control that ends it."""
    raw = path.read_bytes()
    look = raw[:_LOOKED_AT]
    if 10 * (len(look) - len(look.translate(None, _CONTROLS))) > len(look):
        raise BadInput(f"{name} is no text in UTF-8; save it as one, with one URL on each line")
    text = raw.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    if path.suffix.lower() == ".csv":
        yield from _column(text, name)
        return
    lines = text.split("\n")
    for number, line in enumerate(lines[: -1 if not lines[-1] else None], 1):
        if not line.startswith("#"):
            yield number, line.strip(" \t\r")


def _column(text: str, name: str) -> Iterator[tuple[int, str]]:
    """Of a table with a header; the line is that on which a row ends."""
    rows = csv.reader(io.StringIO(text, newline=""))
    limit = csv.field_size_limit(max(len(text), 1))  # a URL may be of any length
    try:
        header = [c.strip().lower() for c in next(rows, [])]
        if _COLUMN not in header:
            raise BadInput(f"{name} has no column {_COLUMN}; name the column with the URLs so in the first line")
        at = header.index(_COLUMN)
        found = [(rows.line_num, row[at].strip() if at < len(row) else "") for row in rows]
    except csv.Error:
        raise BadInput(f"{name} is no table in CSV after line {rows.line_num}; mend or remove what follows") from None
    finally:
        csv.field_size_limit(limit)
    yield from found
