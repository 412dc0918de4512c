"""Tables of labels, joined with the flows of captures by file and by ends."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial as bound
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from unlabeled.core.contracts import BadInput, RequestError
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.files import free_file, write_atomic
from unlabeled.network import kinds
from unlabeled.network.flow.flows import Flows
from unlabeled.network.options import ReaderOptions
from unlabeled.network.read import Reader
from unlabeled.network.table.kinds import PROTOCOLS

ENDS = ("protocol", "src", "sport", "dst", "dport")
# headings by field, likeliest first; a and b: address and port in one, as nDPI's tables have them
HEADINGS = {
    "capture": ("capture", "file", "filename", "pcap"),
    "protocol": ("l4", "proto", "protocol"),
    "src": ("src", "source", "src_ip", "source ip", "id.orig_h"),
    "sport": ("sport", "src_port", "source port", "id.orig_p"),
    "dst": ("dst", "destination", "dst_ip", "destination ip", "id.resp_h"),
    "dport": ("dport", "dst_port", "destination port", "id.resp_p"),
    "a": ("a",),
    "b": ("b",),
    "label": ("label", "class", "application", "app", "service", "protocol"),
}
PORTS = (6, 17, 132)  # protocols that have some
MORE = {"icmpv6": 58, "igmp": 2, "pgm": 113, "udplite": 136}
FIRST = 5  # lines or keys that a message names

Ends = tuple[int | None, ...]  # in the order of ENDS; None: the line does not say
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Line:
    number: int
    capture: str
    label: str
    ends: Ends


def write(
    path: Path,
    table: Path,
    to: Path,
    columns: Mapping[str, str],
    options: Mapping[str, Any],
    partial: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write `to`, a CSV with the columns key and label, and return flows, classes (label -> flows) and what was left out.

    A line without ends labels every flow of its capture; one with ends every flow between these, whichever way. Lines of
    flows that are not there are counted. Where `partial` is False, raises RequestError, naming the first 5 lines or keys, for lines that
    cannot be read, captures that are not there, flows without a line, and flows of two labels; always for fewer than two
    classes. No message names an address.
    """
    free_file(to)
    lines, unreadable = read(table, columns)
    reader = Reader(validated(ReaderOptions, dict(options), "data.options"), path)
    if not path.exists():
        raise RequestError(f"{path}: no such folder")
    files = reader.files(path)
    if not files or kinds.kind(files[0]) != "captures":
        raise RequestError(f"{path}: there is no capture; it needs one of {', '.join(kinds.CAPTURES)}")
    of, nowhere = _by_file(lines, files, path)
    faults = _Faults(partial)
    what = "have no label, or an address, port or protocol that is none"
    faults.add(unreadable, "line", what, f"{table}: correct them")
    faults.add(
        nowhere, "line", "name no capture of the folder", f"{table}: look at the column capture, or at the folder"
    )
    found: dict[str, str] = {}
    absent: list[int] = []
    unlabelled: list[str] = []
    torn: list[str] = []
    for done, file in enumerate(files):
        try:
            flows = reader.flows(file)
        except BadInput as error:
            faults.left_out.append(str(error))
            continue
        keys = [reader.key(file, number) for number in flows.number.tolist()]
        said, unused = _joined(flows, of[file])
        absent += unused
        unlabelled += [k for k, s in zip(keys, said, strict=True) if not s]
        torn += [k for k, s in zip(keys, said, strict=True) if len(s) > 1]
        found |= {k: next(iter(s)) for k, s in zip(keys, said, strict=True) if len(s) == 1}
        if progress:
            progress(done + 1, len(files))
    faults.add(unlabelled, "flow", "have no line", f"{table}: label them")
    faults.add(torn, "flow", "have two labels", f"{table}: keep one line of each")
    faults.add(absent, "line", "fit no flow of their capture", "", error=False)
    classes = Counter(found.values())
    if len(classes) < 2:
        raise RequestError(
            f"{table}: the {len(found)} labelled flows have {len(classes)} class(es), and two are needed"
        )
    write_atomic(to, bound(_write, rows=found))
    return {"flows": len(found), "classes": dict(sorted(classes.items())), "left_out": faults.left_out}


@dataclass
class _Faults:
    """What does not fit: an error, or counted."""

    partial: bool
    left_out: list[str] = field(default_factory=list)

    def add(self, which: Sequence[object], unit: str, what: str, mend: str, error: bool = True) -> None:
        if not which:
            return
        named = ", ".join(map(str, which[:FIRST])) + (", ..." if len(which) > FIRST else "")
        said = f"{len(which)} {unit}s {what} ({named})"
        if error and not self.partial:
            raise RequestError(f"{said}; {mend}, or leave them out with --partial")
        self.left_out.append(said)


def read(table: Path, columns: Mapping[str, str] | None = None) -> tuple[list[Line], list[int]]:
    """The lines of a table, separated by tabs or commas, and the numbers of those that cannot be read.

    columns: field -> heading, where they are not as in HEADINGS. Raises RequestError for a missing column.
    """
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"{table} cannot be read as a table in UTF-8 ({error}); save it again") from None
    head = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter="\t" if "\t" in head else ",")
    named = _named(table, [c or "" for c in rows.fieldnames or []], columns or {})
    lines, bad = [], []
    for row in rows:
        values = {name: (row[heading] or "").strip() for name, heading in named.items()}
        if not any(values.values()):
            continue
        try:
            if not values["label"]:
                raise ValueError
            lines.append(Line(rows.line_num, values.get("capture", ""), values["label"], _ends(values)))
        except ValueError:
            bad.append(rows.line_num)
    return lines, bad


def _named(table: Path, there: Sequence[str], columns: Mapping[str, str]) -> dict[str, str]:
    """Field -> heading."""
    unknown = [name for name in columns if name not in HEADINGS]
    if unknown:
        raise RequestError(f"--column {unknown[0]}: there are {', '.join(HEADINGS)}")
    missing = [str(heading) for heading in columns.values() if heading not in there]
    if missing:
        raise RequestError(f"{table} has no column {missing[0]!r}; it has {', '.join(there)}")
    named = {name: str(heading) for name, heading in columns.items()}
    by_lower = {c.strip().lower(): c for c in there}
    for name, headings in HEADINGS.items():
        taken = set(named.values())
        free = [by_lower[h] for h in headings if h in by_lower and by_lower[h] not in taken]
        if name not in named and free:
            named[name] = free[0]
    if "label" not in named and named.get("protocol", "").lower() == "protocol":  # the only one that can be meant
        named["label"] = named.pop("protocol")
    if "label" not in named:
        raise RequestError(
            f"{table}: the columns {', '.join(there) or 'nothing'} hold no label; name it by --column label=NAME"
        )
    return named


def _ends(values: Mapping[str, str]) -> Ends:
    """Raises ValueError where a value is none of its kind."""
    texts = {name: values.get(name, "") for name in ENDS}
    for both, (address, port) in {"a": ("src", "sport"), "b": ("dst", "dport")}.items():
        if values.get(both):
            head, _, tail = values[both].rpartition(":")
            texts[address], texts[port] = head.strip("[]"), tail
    protocol = _protocol(texts["protocol"]) if texts["protocol"] else None
    src, dst = (_address(texts[name]) if texts[name] else None for name in ("src", "dst"))
    sport, dport = (_port(texts[name]) if texts[name] else None for name in ("sport", "dport"))
    if protocol is not None and protocol not in PORTS:  # what tables write there is no port
        sport = dport = None
    return protocol, src, sport, dst, dport


def _protocol(text: str) -> int:
    number = {**PROTOCOLS, **MORE}.get(text.lower())
    return number if number is not None else _within(text, 256)


def _port(text: str) -> int:
    return _within(text, 1 << 16)


def _within(text: str, most: int) -> int:
    if not 0 <= int(text) < most:
        raise ValueError
    return int(text)


def _address(text: str) -> int:
    """128 bits; IPv4 as ::ffff:a.b.c.d."""
    address = ip_address(text.partition("%")[0])
    return int(address) | (0xFFFF << 32 if address.version == 4 else 0)


def _by_file(lines: Sequence[Line], files: Sequence[Path], root: Path) -> tuple[dict[Path, list[Line]], list[int]]:
    """The lines of each file, and the numbers of those of none. A file is named by its path or its name, with endings or not."""
    known: dict[str, set[Path]] = defaultdict(set)
    for file in files:
        name = file.relative_to(root).as_posix() if root.is_dir() else file.name
        for said in {name, kinds.stem(name), file.name, kinds.stem(file.name)}:
            known[said].add(file)
    of: dict[Path, list[Line]] = {file: [] for file in files}
    nowhere, several = list[int](), list[int]()
    for line in lines:
        there = known.get(line.capture, set()) if line.capture else set(files if len(files) == 1 else ())
        if len(there) == 1:
            of[next(iter(there))].append(line)
        else:
            (several if there else nowhere).append(line.number)
    if several:
        raise RequestError(
            f"lines {', '.join(map(str, several[:FIRST]))} name captures of which there are several; write their paths below the "
            "folder"
        )
    return of, nowhere


def _joined(flows: Flows, lines: Sequence[Line]) -> tuple[list[set[str]], list[int]]:
    """What the lines say of each flow, and the numbers of the lines that fit none."""
    said: list[set[str]] = [set() for _ in range(len(flows))]
    unused = []
    made: dict[tuple[int, ...], dict[Ends, list[int]]] = {}
    for line in lines:
        given = tuple(i for i, value in enumerate(line.ends) if value is not None)
        if given not in made:
            made[given] = _index(flows, given)
        fit = made[given].get(tuple(line.ends[i] for i in given), [])
        for at in fit:
            said[at].add(line.label)
        if not fit:
            unused.append(line.number)
    return said, unused


def _index(flows: Flows, given: tuple[int, ...]) -> dict[Ends, list[int]]:
    """The flows with these of their ends, either way round."""
    src, dst = ((flows.src, flows.dst)[i].tolist() for i in (0, 1))
    rows = zip(flows.protocol.tolist(), src, flows.sport.tolist(), dst, flows.dport.tolist(), strict=True)
    index: dict[Ends, list[int]] = defaultdict(list)
    for at, (protocol, a, sport, b, dport) in enumerate(rows):
        one, other = a[0] << 64 | a[1], b[0] << 64 | b[1]
        for way in {(protocol, one, sport, other, dport), (protocol, other, dport, one, sport)}:
            key = tuple(way[i] for i in given)
            if not index[key] or index[key][-1] != at:
                index[key].append(at)
    return index


def _write(file: Path, rows: Mapping[str, str]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([("key", "label"), *rows.items()])
