"""Tables of flows -> Samples: each row of a log is one, with its sizes and times as tokens, and no address and no port."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import BadInput, Input, Sample
from unlabeled.core.contracts.sample import AXIS_OF_TEXT, UNIT_OF_IDS
from unlabeled.network.flow.statistics import SHORTCUTS
from unlabeled.network.kinds import stem
from unlabeled.network.options import ReaderOptions
from unlabeled.network.table.columns import Columns, columns_of
from unlabeled.network.table.formats import NUMBERS
from unlabeled.network.table.kinds import STATES

# the tokens of `x`, in the order of their coordinate: log2(1 + value), times in us. A mean size is that of bytes with IP
# headers where the log has them, else of payload
FIELDS = (*NUMBERS, "size out", "size back")
# the classes of protocols of the statistics: ICMP, TCP, UDP, ICMPv6
_COMMON = (1, 6, 17, 58)


def read(path: Path, name: str, options: ReaderOptions) -> Sequence[Sample]:
    """The rows of a log, made when they are asked for; a row that is broken is left out and counted in the first's flags.

    name: the path relative to the folder that is read, which keys begin with. Raises BadInput in one sentence.
    """
    try:
        # bytes that are no UTF-8 are in cells that are not used, or the row is counted as broken
        with (gzip.open if path.suffix.lower() == ".gz" else open)(
            path, "rt", encoding="utf-8", errors="replace"
        ) as file:
            columns = columns_of(iter(file), name)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise BadInput(f"{name}: its gzip stream is broken ({error}); compress it again") from None
    return Rows(columns, name, options)


class Rows(Sequence[Sample]):
    """The rows of a log as Samples.

    `x`: (F, 1) log2(1 + value) of FIELDS; `kind`: (2, 2) ids, the protocol by IANA's number and the state in STATES. Not
    valid is what the log does not say. A row that says nothing at all is left out.
    """

    def __init__(self, columns: Columns, name: str, options: ReaderOptions) -> None:
        values = np.stack([*columns.numbers.values(), *_sizes(columns)], 1)
        kind = np.stack([columns.protocol, columns.state], 1)
        groups = _groups(columns.start, name, options)
        keep = ~np.isnan(values).all(1) & np.array([g is not None for g in groups], bool)
        if not keep.any():
            raise BadInput(
                f"{name}: no row has a value and a group; export the log with its columns, or choose another group"
            )
        if not keep.all():
            columns.bad["rows without a value, or without a time to group them by, left out"] += int((~keep).sum())
        self.row, self.start, self.kind = columns.row[keep], columns.start[keep], kind[keep]
        self.values = np.log2(1 + values[keep]).astype(np.float32)
        self.ports = columns.ports[keep]
        self.groups = [g for g, kept in zip(groups, keep, strict=True) if kept]
        self.flags = [f"{what}: {n}" for what, n in sorted(columns.bad.items())]
        self.source, self.name = columns.format.name, name

    def __len__(self) -> int:
        return len(self.row)

    @overload
    def __getitem__(self, at: int) -> Sample: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Sample]: ...
    def __getitem__(self, at: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        at = range(len(self))[at]
        values, kind, group = self.values[at], self.kind[at], self.groups[at]
        assert group is not None
        number, said = int(self.row[at]), int(self.start[at])
        about = (said, values.tolist(), kind.tolist(), self.ports[at].tolist(), *(() if said >= 0 else (number,)))
        return Sample(
            inputs={  # in the order of their names, in which a bundle lists them
                "kind": _tokens(
                    np.stack([np.arange(2), np.maximum(kind, 0)], 1).astype(np.uint8),
                    np.array([kind[0] >= 0, kind[1] > 0]),
                    ("name", "value"),
                    (UNIT_OF_IDS,) * 2,
                    self.source,
                ),
                "x": _tokens(values[:, None], ~np.isnan(values), ("value",), ("log2",), self.source),
            },
            key=f"{stem(self.name)}#{number}",
            group=group,
            meta={
                "flags": [] if at else list(self.flags),
                "statistics": _statistics(values, kind),
                "shortcuts": _shortcuts(self.ports[at]),
                "start": said,
                # the same line in two files is the same flow; two flows of one size are not. Without a time the number of
                # the row stands for it
                "identity": repr(about).encode(),
            },
        )


def _tokens(
    data: NDArray[np.generic], valid: NDArray[np.bool_], channels: tuple[str, ...], units: tuple[str, ...], source: str
) -> Input:
    return Input(
        data=np.where(valid[:, None], data, 0).astype(data.dtype),
        channels=channels,
        units=units,
        layout="packed",
        unit=AXIS_OF_TEXT,
        valid=None if valid.all() else valid,
        coords=np.arange(len(data), dtype=np.float64)[:, None],
        source=source,
    )


def _sizes(columns: Columns) -> Iterator[NDArray[np.float64]]:
    """Mean size of a packet by the client, and back; NaN without a packet."""
    for way in ("out", "back"):
        whole, payload = columns.numbers[f"bytes {way}"], columns.numbers[f"payload {way}"]
        packets = columns.numbers[f"packets {way}"]
        size = np.where(np.isnan(whole), payload, whole)
        yield np.divide(size, packets, out=np.full(len(size), np.nan), where=packets > 0)


def _groups(start: NDArray[np.int64], name: str, options: ReaderOptions) -> list[str | None]:
    """What may not cross a split, as for captures; None where the log has no time and the group is a stretch of time."""
    log = stem(name)
    if options.group_pattern is not None:
        found = re.search(options.group_pattern, name)
        if not found or not found[1]:
            raise BadInput(
                f"{name}: options.group_pattern finds no group in this path; correct the pattern or the file's name"
            )
        return [found[1]] * len(start)
    if options.group == "folder":
        return [str(Path(name).parent)] * len(start)
    if options.group == "slot":
        slots = (start // int(options.slot * 1e9)).tolist()
        return [f"{log}@{n}" if n >= 0 else None for n in slots]
    return [log] * len(start)


def _statistics(values: NDArray[np.float32], kind: NDArray[np.int64]) -> NDArray[np.float32]:
    """What simple baselines are given: the numbers, which of them there are, the protocol and the state."""
    there = ~np.isnan(values)
    return np.concatenate(
        [
            np.where(there, values, 0),
            there,
            [kind[0] == p for p in _COMMON],
            [kind[1] == s for s in range(len(STATES))],
        ]
    ).astype(np.float32)


def _shortcuts(ports: NDArray[np.float64]) -> NDArray[np.float32]:
    """In the order of SHORTCUTS: the ports; a log has none of the others, and they are 0."""
    out = np.zeros(len(SHORTCUTS), np.float32)
    known = np.where(np.isnan(ports), 0, ports)
    for what, port in (
        ("port least", known.min()),
        ("port most", known.max()),
        ("port of the client", known[0]),
        ("port of the server", known[1]),
    ):
        out[SHORTCUTS.index(what)] = port
    return out
