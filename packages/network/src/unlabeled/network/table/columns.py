"""Logs of flows as columns of numbers: Zeek's conn.log (TSV and JSON lines), nfdump's CSV, CICFlowMeter's CSV.

Only columns that are used are ever parsed: addresses stay text in the file. Reasons name columns and count rows, and never
repeat a cell.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import BadInput
from unlabeled.network.table.formats import FORMATS, NETFLOW, NUMBERS, ZEEK, Format
from unlabeled.network.table.kinds import PROTOCOLS, STATES

ROWS = 1 << 16  # of text that are in memory at once
TOO_LONG = 1 << 20  # bytes of a line
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_TIMES = ("%d/%m/%Y %H:%M:%S", "%d/%m/%Y %I:%M:%S %p", "%d/%m/%Y %H:%M")  # as CICFlowMeter writes them, days first

Floats = NDArray[np.float64]
Cells = Mapping[str, Sequence[str | None]]
_COUNTS = (*NUMBERS, "port out", "port back", "syn", "fin", "rst")


@dataclass
class Columns:
    """Rows of a log. row (N,) which of the file's, from 0; NaN and -1 where the log says nothing.

    start   (N,) ns since 1970, -1 unknown; numbers: each of NUMBERS (N,), duration in us; ports (N, 2) by the client, and back
    protocol, state (N,) numbers of IANA, and in STATES
    bad     reason -> rows
    """

    format: Format
    row: NDArray[np.int64]
    start: NDArray[np.int64]
    numbers: dict[str, Floats]
    ports: Floats
    protocol: NDArray[np.int64]
    state: NDArray[np.int64]
    bad: Counter[str] = field(default_factory=Counter)


def columns_of(lines: Iterator[str], name: str) -> Columns:
    """A whole log. Raises BadInput for an unknown header and where no row can be read."""
    parts, bad, seen = [], Counter[str](), 0
    made, split, first = _opened(lines, name)
    text = iter([*first, *lines] if first else lines)
    while block := list(islice(text, ROWS)):
        cells, rows, done = split(block, seen, bad)
        seen += done
        if rows:
            parts.append(_numbers(made, cells, np.array(rows, np.int64), bad))
    if not parts:
        said = f"none of its {seen} rows can be read; export it again" if seen else "there is a header and no row"
        raise BadInput(f"{name}: {said}")
    names = ("row", "start", "ports", "protocol", "state")
    return Columns(
        format=made,
        numbers={n: np.concatenate([p.numbers[n] for p in parts]) for n in NUMBERS},
        bad=bad,
        **{n: np.concatenate([getattr(p, n) for p in parts]) for n in names},
    )


Split = Callable[[list[str], int, Counter[str]], tuple[Cells, list[int], int]]


def _opened(lines: Iterator[str], name: str) -> tuple[Format, Split, list[str]]:
    """The kind of log, what takes its lines apart, and lines that were looked at and hold rows."""
    head = next((line for line in lines if line.strip()), None)
    if head is None:
        raise BadInput(f"{name}: the file is empty; export it again or remove it")
    head = head.lstrip("\ufeff")
    if head.lstrip().startswith("{"):
        return ZEEK, _json(ZEEK), [head]
    if not head.startswith("#"):
        columns = [c.strip().strip('"') for c in head.rstrip("\r\n").split(",")]
        made = _format(columns, FORMATS, name)
        return made, _cells(made, columns, ",", ("",)), []
    said = {"#separator": "\t", "#unset_field": "-", "#empty_field": "(empty)", "#path": "conn"}
    for line in chain([head], islice(lines, 20)):
        key, _, rest = line.rstrip("\r\n").partition(" " if line.startswith("#separator") else said["#separator"])
        if key == "#fields":
            columns = rest.split(said["#separator"])
            made = _format(columns, (ZEEK,), name)
            return made, _cells(made, columns, said["#separator"], ("", said["#unset_field"], said["#empty_field"])), []
        said[key] = re.sub(r"\\x([0-9a-fA-F]{2})", lambda m: chr(int(m[1], 16)), rest) if key == "#separator" else rest
    raise BadInput(f"{name}: there is no line #fields among the first 20; export the log with its header")


def _format(columns: Sequence[str], among: Sequence[Format], name: str) -> Format:
    there = {c.lower() for c in columns}
    missing = {f: [f.columns[n][0] for n in f.needed if not there & set(f.columns[n])] for f in among}
    best = min(among, key=lambda f: len(missing[f]) / len(f.needed))
    if missing[best]:
        raise BadInput(
            f"{name}: of {best.title} the columns {', '.join(missing[best])} are missing; export the log with its header and "
            "these columns, under these names"
        )
    return best


def _cells(made: Format, columns: Sequence[str], separator: str, unset: tuple[str, ...]) -> Split:
    """Takes lines of text apart. A row of another number of cells is left out, and counted; what begins with # is no row."""
    names = [c.lower() for c in columns]
    at = {what: names.index(s) for what, known in made.columns.items() for s in known if s in names}
    over = False

    def split(block: list[str], before: int, bad: Counter[str]) -> tuple[Cells, list[int], int]:
        nonlocal over
        found: list[list[str]] = []
        rows: list[int] = []
        n = 0
        for line in block:
            over = over or (made is NETFLOW and line.startswith("Summary"))  # of all flows, after the last
            if over or line.startswith("#") or not line.strip():
                continue
            cells = line.rstrip("\r\n").split(separator)
            if len(line) > TOO_LONG or len(cells) != len(names) or "\0" in line:
                bad["rows that are broken, left out"] += 1
            elif [c.strip().strip('"').lower() for c in cells] == names:
                bad["rows that repeat the header, left out"] += 1
            else:
                found.append(cells)
                rows.append(before + n)
            n += 1
        return (
            {w: [None if (c := r[i].strip().strip('"')) in unset else c for r in found] for w, i in at.items()},
            rows,
            n,
        )

    return split


def _json(made: Format) -> Split:
    def split(block: list[str], before: int, bad: Counter[str]) -> tuple[Cells, list[int], int]:
        found: list[dict[str, object]] = []
        rows: list[int] = []
        n = 0
        for line in block:
            if not line.strip():
                continue
            try:
                row = json.loads(line) if len(line) <= TOO_LONG else None
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict) and all(made.columns[k][0] in row for k in made.needed):
                found.append(row)
                rows.append(before + n)
            else:
                bad["rows that are broken, left out"] += 1
            n += 1
        said = {w: [r.get(known[0]) for r in found] for w, known in made.columns.items()}
        return {w: [None if c is None else str(c) for c in cells] for w, cells in said.items()}, rows, n

    return split


def _numbers(made: Format, cells: Cells, row: NDArray[np.int64], bad: Counter[str]) -> Columns:
    n = len(row)
    empty: list[str | None] = [None] * n
    found = {what: _counts(cells.get(what, empty), what, bad) for what in _COUNTS}
    found["duration"] *= made.duration
    protocol = np.array([_protocol(p) for p in cells.get("protocol", empty)], np.int64)
    start = _starts(cells.get("start", empty), bad)
    return Columns(
        made,
        row,
        start,
        {name: found[name] for name in NUMBERS},
        np.stack([found["port out"], found["port back"]], 1),
        protocol,
        _states(made, cells, found, protocol),
    )


def _counts(cells: Sequence[str | None], what: str, bad: Counter[str]) -> Floats:
    """Numbers, none below 0; NaN where there is none, and, counted, where it can be none."""
    values = np.array([np.nan if c is None or not _NUMBER.fullmatch(c) else float(c) for c in cells], np.float64)
    no_number = np.isnan(values) & np.array([c is not None for c in cells], bool)
    wrong = (values < 0) | (values > 2.0**53)
    for reason, rows in (("no number", no_number), ("below 0 or beyond any count", wrong)):
        if rows.any():
            bad[f"{what}: {reason}"] += int(rows.sum())
    return np.where(wrong, np.nan, values)


def _starts(cells: Sequence[str | None], bad: Counter[str]) -> NDArray[np.int64]:
    """ns since 1970, as UTC where no zone is said; -1 without one. Counted: no time, and the years 1970 and from 2106 on."""
    out = np.full(len(cells), -1, np.int64)
    known: dict[str, int] = {}  # times to the second repeat
    for i, cell in enumerate(cells):
        if cell is not None:
            if cell not in known:
                known[cell] = _start(cell)
            out[i] = known[cell]
    wrong = sum(c is not None for c in cells) - int((out >= 0).sum())
    years = (out >= 0) & ((out < 31_536_000 * 10**9) | (out >= 2**32 * 10**9))
    for reason, rows in (("start: no time", wrong), ("start: in 1970, or in 2106 or later", int(years.sum()))):
        if rows:
            bad[reason] += rows
    return out


def _start(cell: str) -> int:
    if _NUMBER.fullmatch(cell):
        seconds = float(cell)
        return round(seconds * 1e6) * 1000 if 0 <= seconds < 9e9 else -1
    for read in (datetime.fromisoformat, *(lambda c, f=f: datetime.strptime(c, f) for f in _TIMES)):
        try:
            time = read(cell)
        except ValueError:
            continue
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        since = time - datetime(1970, 1, 1, tzinfo=UTC)
        return -1 if since.days < 0 else ((since.days * 86400 + since.seconds) * 10**6 + since.microseconds) * 1000
    return -1


def _protocol(cell: str | None) -> int:
    """IANA's number; 255, which is reserved, for a name that is not known here; -1 where the log says nothing."""
    if cell is None:
        return -1
    if cell.isascii() and cell.isdigit():
        return int(cell) if int(cell[:4]) < 255 else 255
    return PROTOCOLS.get(cell.lower(), 255)


def _states(made: Format, cells: Cells, found: Mapping[str, Floats], protocol: NDArray[np.int64]) -> NDArray[np.int64]:
    """Zeek's state of the connection, or what the TCP flags that were seen say of it; 0 where it is unknown."""
    if "state" in cells:
        return np.array([STATES.index(s) if s in STATES else 0 for s in cells["state"]], np.int64)
    if "flags" in cells:
        reset, fin, syn = (np.array([letter in (f or "") for f in cells["flags"]], bool) for letter in "RFS")
        known = np.array([f is not None for f in cells["flags"]], bool)
    else:
        reset, fin, syn = (found[name] > 0 for name in ("rst", "fin", "syn"))
        known = ~np.isnan(found["syn"])
    tcp = PROTOCOLS["tcp"]
    named = np.select([reset, fin, syn], [STATES.index(s) for s in ("reset", "fin", "syn")], STATES.index("midstream"))
    return np.where(known & ((protocol == tcp) | (protocol < 0)), named, 0)
