"""CSV, Parquet and NPZ: one file -> one Table. What a file holds is checked here; what it means, in `read`.

Reasons are written into manifests and logs, so they name file, column and row, and never repeat a cell.
"""

from __future__ import annotations

import csv
import io
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from unlabeled.biosignal.options import ReaderOptions
from unlabeled.core.contracts import BadInput

# Arrow would break off a read at Ctrl-C with an error of its own, and where a run has asked to end by itself, between two
# steps, the file in hand would count as unreadable
pa.enable_signal_handlers(False)

TIME = ("time", "timestamp", "t")
WORDS = ("recording", "subject", "side")  # columns of text, one value per recording
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_UNITS = {"m/s2": "m/s^2", "m/s²": "m/s^2", "m/s/s": "m/s^2", "°/s": "deg/s", "dps": "deg/s", "µV": "uV", "μV": "uV"}
_SUFFIX = re.compile(r"^(.*?)\s*\[([^\]]*)\]\s*$")


@dataclass(frozen=True)
class Table:
    """One file. values (C, N) float64; time (N,) seconds; words: text columns, (N,) or (1,) each."""

    channels: tuple[str, ...]
    units: tuple[str, ...]
    values: NDArray[np.float64]
    time: NDArray[np.float64] | None = None
    rate: float | None = None
    source: str = ""
    words: dict[str, NDArray[np.str_]] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column of a file: its name there, the channel it is, the unit the name holds."""

    raw: str
    name: str
    unit: str


def load(path: Path, name: str, options: ReaderOptions) -> Table:
    """Read one file; `name` is what errors call it. Raises BadInput in one sentence."""
    return FORMATS[path.suffix.lower()](path, name, options)


def _columns(raw: Sequence[str], name: str) -> list[Column]:
    columns = []
    for text in raw:
        found = _SUFFIX.match(text.strip())
        columns.append(Column(text, found[1], _unit(found[2])) if found else Column(text, text.strip(), ""))
    repeated = [c for c, n in Counter(c.name for c in columns).items() if n > 1]
    if repeated:
        raise BadInput(f"{name}: the column {repeated[0]!r} stands there twice; rename or remove one")
    if "" in [c.name for c in columns]:
        raise BadInput(f"{name}: column {[c.name for c in columns].index('') + 1} has no name; name it in the header")
    return columns


def _unit(text: str) -> str:
    return _UNITS.get(text.strip(), text.strip())


def _kind(column: Column) -> str:
    """`time`, one of WORDS, or `channel`."""
    lower = column.name.lower()
    return "time" if lower in TIME else lower if lower in WORDS else "channel"


def _chosen(columns: Sequence[Column], name: str, options: ReaderOptions) -> list[Column]:
    """The channel columns: those of options.channels in their order, or all."""
    found = {c.name: c for c in columns if _kind(c) == "channel"}
    if options.channels is None:
        if not found:
            raise BadInput(
                f"{name}: there is no channel column (found {', '.join(c.name for c in columns) or 'none'}); add one"
            )
        return list(found.values())
    missing = [c for c in options.channels if c not in found]
    if missing:
        raise BadInput(
            f"{name}: channel {', '.join(missing)} is missing (found {', '.join(found) or 'none'}); "
            "rename the columns or correct options.channels"
        )
    return [found[c] for c in options.channels]


def _units(chosen: Sequence[Column], given: Sequence[str], name: str, options: ReaderOptions) -> tuple[str, ...]:
    """The unit of each channel: from the file, or from options.units."""
    units = []
    for column, own in zip(chosen, given, strict=True):
        stated = [_unit(unit) for pattern, unit in options.units.items() if fnmatchcase(column.name, pattern)]
        own = column.unit or _unit(own)
        if own and stated and stated[0] != own:
            raise BadInput(
                f"{name}: {column.name} is in {own} by the file and in {stated[0]} by options.units; correct one of them"
            )
        units.append(own or (stated[0] if stated else ""))
    return tuple(units)


def _rate(text: object, name: str) -> float | None:
    if text is None:
        return None
    try:
        return float(str(text))
    except ValueError:
        raise BadInput(f"{name}: the rate in its metadata is no number; write a number of Hz") from None


def _stack(arrays: Sequence[NDArray[np.float64]], name: str) -> NDArray[np.float64]:
    lengths = {len(a) for a in arrays}
    if len(lengths) > 1:
        raise BadInput(
            f"{name}: the channels have different lengths ({', '.join(map(str, sorted(lengths)))}); cut them alike"
        )
    return np.stack(arrays)


# --- CSV


def _csv(path: Path, name: str, options: ReaderOptions) -> Table:
    content = path.read_bytes()
    if not content.strip():
        raise BadInput(f"{name}: the file is empty; record it again or remove it")
    if b"\0" in content:
        raise BadInput(f"{name}: this is binary or UTF-16, not a CSV in UTF-8; save it as one or correct its ending")
    try:
        content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise BadInput(f"{name}: line {line} is not UTF-8; save the file in UTF-8") from None
    content = content.removeprefix(b"\xef\xbb\xbf")
    columns = _header(content, name, options)
    chosen = _chosen(columns, name, options)
    others = [c for c in columns if _kind(c) != "channel"]
    ragged: list[Any] = []

    def refuse(row: Any) -> str:
        ragged.append(row)
        return "error"

    try:
        # text first, numbers after: only so can a bad cell be named with its row
        table = pyarrow.csv.read_csv(
            pa.BufferReader(content),
            read_options=pyarrow.csv.ReadOptions(use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(delimiter=options.delimiter, invalid_row_handler=refuse),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={c.raw: pa.string() for c in columns}, include_columns=[c.raw for c in (*chosen, *others)]
            ),
        )
    except pa.ArrowException:
        if ragged:
            where = f"row {ragged[0].number - 1}" if ragged[0].number else "one row"
            raise BadInput(
                f"{name}: {where} has {ragged[0].actual_columns} cells, the header {ragged[0].expected_columns}; "
                "repair the row"
            ) from None
        raise BadInput(f"{name}: not a readable CSV; save it again") from None
    if not table.num_rows:
        raise BadInput(f"{name}: there is a header and no row; record it again or remove it")
    return _arrow(table, columns, chosen, dict.fromkeys([c.raw for c in chosen], ""), {}, name, options)


def _header(content: bytes, name: str, options: ReaderOptions) -> list[Column]:
    try:
        first = next(csv.reader(io.StringIO(content.decode(), newline=""), delimiter=options.delimiter), [])
    except csv.Error:  # a cell longer than any header
        raise BadInput(f"{name}: not a readable CSV; save it again") from None
    if len(first) == 1:
        other = next((d for d in ";\t,|" if d != options.delimiter and d in first[0]), None)
        if other:
            raise BadInput(f"{name}: the columns seem to be separated by {other!r}; set options.delimiter to it")
    if first and all(_NUMBER.fullmatch(cell.strip()) for cell in first):
        raise BadInput(f"{name}: the first row holds numbers; add a row with the column names")
    return _columns(first, name)


# --- Parquet


def _parquet(path: Path, name: str, options: ReaderOptions) -> Table:
    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            columns = _columns(schema.names, name)
            chosen = _chosen(columns, name, options)
            table = file.read(columns=[c.raw for c in columns if c in chosen or _kind(c) != "channel"])
        if not table.num_rows:
            raise BadInput(f"{name}: there are columns and no row; record it again or remove it")
        facts = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
        units = {f.name: (f.metadata or {}).get(b"unit", b"").decode() for f in schema}
        return _arrow(table, columns, chosen, units, facts, name, options)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's fault, not the file's
            raise
        raise BadInput(f"{name}: not a readable Parquet file; write it again") from None


def _arrow(
    table: pa.Table,
    columns: Sequence[Column],
    chosen: Sequence[Column],
    units: dict[str, str],
    facts: dict[str, str],
    name: str,
    options: ReaderOptions,
) -> Table:
    words = {k: np.array([facts[k]]) for k in WORDS if k in facts}
    time = None
    for column in columns:
        if _kind(column) == "time":
            time = _times(table[column.raw], column, name, options)
        elif _kind(column) != "channel":
            text = table[column.raw].cast(pa.string()).fill_null("")
            words[_kind(column)] = np.array(text.to_pylist(), np.str_)
    return Table(
        channels=tuple(c.name for c in chosen),
        units=_units(chosen, [units[c.raw] for c in chosen], name, options),
        values=_stack([_numbers(table[c.raw], c, name) for c in chosen], name),
        time=time,
        rate=_rate(facts.get("rate"), name),
        source=facts.get("source", ""),
        words=words,
    )


def _numbers(column: pa.ChunkedArray, about: Column, name: str) -> NDArray[np.float64]:
    """float64 with NaN for empty cells. Raises BadInput naming the first cell that is no number."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        text = pc.utf8_trim_whitespace(column)
        text = pc.if_else(pc.is_in(pc.utf8_lower(text), pa.array(["", "nan", "na", "n/a", "null", "none"])), None, text)
        try:
            column = text.cast(pa.float64())
        except pa.ArrowInvalid:
            cells = enumerate(text.to_pylist(), start=1)
            row = next(i for i, c in cells if c is not None and not _is_number(c))
            raise BadInput(
                f"{name}: column {about.name!r} holds a text in row {row}, which is no number; "
                "repair the cell or name the wanted columns in options.channels"
            ) from None
    elif not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise BadInput(
            f"{name}: column {about.name!r} is of type {column.type}, which is no number; "
            "convert it or name the wanted columns in options.channels"
        )
    values: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    return values


def _is_number(cell: str) -> bool:
    try:
        pa.scalar(cell).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True


def _times(column: pa.ChunkedArray, about: Column, name: str, options: ReaderOptions) -> NDArray[np.float64]:
    """Seconds, from the first row on. Datetimes without a zone are fine: only their differences count."""
    if pa.types.is_timestamp(column.type):
        return _since_first(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        text = pc.utf8_trim_whitespace(column)
        if not _is_number(next((c for c in text.to_pylist() if c), "")):
            for kind in (pa.timestamp("ns"), pa.timestamp("ns", tz="UTC")):
                try:
                    return _since_first(pc.if_else(pc.equal(text, ""), None, text).cast(kind))
                except pa.ArrowInvalid:
                    continue
            raise BadInput(
                f"{name}: column {about.name!r} holds times of another form; "
                "write seconds or ISO datetimes (2026-01-31T12:00:00.02)"
            )
    scale = _SECONDS[_unit(about.unit) if about.unit in _SECONDS else options.time_unit]
    values = _numbers(column, about, name)
    seconds: NDArray[np.float64] = (values - values[0]) * scale
    return seconds


def _since_first(column: pa.ChunkedArray) -> NDArray[np.float64]:
    stamps = column.cast(pa.timestamp("ns", tz=column.type.tz)).to_numpy().astype("datetime64[ns]")
    seconds: NDArray[np.float64] = (stamps - stamps[0]) / np.timedelta64(1, "s")
    return seconds


# --- NPZ


def _npz(path: Path, name: str, options: ReaderOptions) -> Table:
    content = path.read_bytes()
    unreadable = BadInput(f"{name}: not a readable NPZ archive of arrays; write it again by numpy.savez")
    if not zipfile.is_zipfile(io.BytesIO(content)):
        raise unreadable
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
    except Exception as error:  # on spoiled bytes zipfile and NumPy raise a dozen kinds, from OSError to SyntaxError
        if "allow_pickle" in str(error):
            raise BadInput(f"{name}: it holds pickled objects, which are never loaded; save plain arrays") from None
        raise unreadable from None
    if not all(isinstance(a, np.ndarray) for a in arrays.values()):  # a member that is no .npy comes as bytes
        raise unreadable
    facts = {k: _texts(arrays.pop(k), k, name) for k in ("channels", "units", "rate", "source") if k in arrays}
    for what in ("rate", "source"):
        if what in facts and len(facts[what]) != 1:
            raise BadInput(f"{name}: {what!r} holds {len(facts[what])} values; save one")
    names = [str(c) for c in facts.get("channels", ())]
    if "data" in arrays:
        arrays = _split(arrays, names, name)
    words = {k: _texts(arrays.pop(k), k, name) for k in WORDS if k in arrays}
    columns = _columns(list(arrays), name)
    chosen = _chosen(columns, name, options)
    given = [str(u) for u in facts.get("units", ())]
    if given and len(given) != len(names):
        raise BadInput(
            f"{name}: it has {len(given)} units for {len(names)} channels; give one unit for each in `channels`"
        )
    unit_of = dict(zip((c.name for c in _columns(names, name)), given, strict=True)) if given else {}
    values = _stack([_vector(arrays[c.raw], c.name, name) for c in chosen], name)
    if not values.size:
        raise BadInput(f"{name}: there are channels and no sample; record it again or remove it")
    clocks = {c: _flat(arrays[c.raw], c.name, name) for c in columns if _kind(c) == "time"}
    n = values.shape[1]
    lengths = [(what, len(texts), {1, n}) for what, texts in words.items()]
    lengths += [(clock.name, len(stamps), {n}) for clock, stamps in clocks.items()]
    for what, length, allowed in lengths:
        if length not in allowed:
            raise BadInput(f"{name}: {what} has {length} rows, the channels {n}; cut them alike")
    time = None
    for clock, stamps in clocks.items():
        try:
            column = pa.chunked_array([pa.array(stamps)])
        except pa.ArrowException:
            raise BadInput(
                f"{name}: {clock.name!r} is of type {stamps.dtype}, which is no time; save plain numbers of seconds"
            ) from None
        time = _times(column, clock, name, options)
    return Table(
        channels=tuple(c.name for c in chosen),
        units=_units(chosen, [unit_of.get(c.name, "") for c in chosen], name, options),
        values=values,
        time=time,
        rate=_rate(facts["rate"][0] if "rate" in facts else None, name),
        source=str(facts["source"][0]) if "source" in facts else "",
        words=words,
    )


def _split(arrays: dict[str, NDArray[Any]], names: Sequence[str], name: str) -> dict[str, NDArray[Any]]:
    """`data` (T, C) as one array per channel."""
    data = arrays.pop("data")
    if data.ndim != 2 or data.shape[1] != len(names):
        raise BadInput(
            f"{name}: `data` has the shape {data.shape} for {len(names)} names in `channels`; save it as (time, channel) with "
            "a name for each channel"
        )
    if len(set(names)) < len(names):
        raise BadInput(f"{name}: `channels` names one channel twice; rename or remove one")
    return {**arrays, **dict(zip(names, data.T, strict=True))}


def _flat(array: NDArray[Any], what: str, name: str) -> NDArray[Any]:
    """(N,) from (), (N,), (N, 1) or (1, N), as MATLAB writes vectors. Raises BadInput for a matrix."""
    if sum(n != 1 for n in array.shape) > 1:
        raise BadInput(f"{name}: {what!r} is an array of shape {array.shape}; save one row of values")
    return array.ravel()


def _texts(array: NDArray[Any], what: str, name: str) -> NDArray[np.str_]:
    """(N,) words, from text, bytes or numbers."""
    try:
        return _flat(array, what, name).astype(np.str_)
    except UnicodeDecodeError:
        raise BadInput(f"{name}: {what!r} holds bytes that are not ASCII; save it as text") from None


def _vector(array: NDArray[Any], channel: str, name: str) -> NDArray[np.float64]:
    if array.dtype.kind not in "iuf":
        raise BadInput(f"{name}: {channel!r} is of type {array.dtype}, which is no number; save numbers per channel")
    return _flat(array, channel, name).astype(np.float64)


FORMATS: dict[str, Callable[[Path, str, ReaderOptions], Table]] = {".csv": _csv, ".parquet": _parquet, ".npz": _npz}
