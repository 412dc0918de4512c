"""Manifest: what is in a folder, one row per record, with what is broken named and kept out."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from unlabeled.core.contracts import (
    BadInput,
    Domain,
    Incompatible,
    InputSpec,
    Leakage,
    RequestError,
    Sample,
    TooManyBad,
    load,
)
from unlabeled.core.contracts.recipe import Data, called, nearest, validated
from unlabeled.core.contracts.sample import AXIS_OF_TEXT
from unlabeled.core.data.groups import hashed, project_key
from unlabeled.core.files import write_atomic

Progress = Callable[[int, int], None]


class Reader(Protocol):
    """What a domain's reader offers."""

    def files(self, root: Path) -> list[Path]: ...

    def read(self, path: Path) -> Iterable[Sample]:
        """The records of a file, in an order that never changes; one after the other where they are large.

        A sample's `index`, where it is set, says which part of the file it is: a reader that seeks may leave out parts
        without values.
        """
        ...


@runtime_checkable
class Parts(Protocol):
    """What a reader of files with many records offers beside: one record of a file, without making the others."""

    def part(self, path: Path, part: int) -> Sample: ...


@runtime_checkable
class Seeks(Parts, Protocol):
    """What a reader of large records offers beside: a window of one, without the rest."""

    def window(self, path: Path, part: int, region: tuple[slice, ...]) -> Sample:
        """`part(path, part)` cut to `region`, which lies inside of it."""
        ...


@dataclass(frozen=True)
class Row:
    """One record, or one file that gave none.

    file      relative to the folder; part: which of the file's records.
    group     keyed hash. status "ok" or "quarantined", with the reason. flags: what was mended, by the reader.
    inputs    name -> facts (layout, channels, units, unit, spacing, shape, source), JSON in the file.
    sha256    of the values as they are used, after the conversions.
    """

    key: str
    file: str
    part: int
    group: str
    status: str
    reason: str
    flags: tuple[str, ...]
    inputs: Mapping[str, Mapping[str, Any]]
    sha256: str

    @property
    def ok(self) -> bool:
        return self.status == "ok"


@dataclass(frozen=True)
class Manifest:
    rows: tuple[Row, ...]

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @property
    def ok(self) -> tuple[Row, ...]:
        return tuple(r for r in self.rows if r.ok)

    @property
    def bad(self) -> tuple[Row, ...]:
        return tuple(r for r in self.rows if not r.ok)

    def save(self, path: Path) -> None:
        table = pa.Table.from_pylist(
            [{**asdict(r), "flags": list(r.flags), "inputs": json.dumps(r.inputs)} for r in self.rows]
        )
        write_atomic(path, lambda temp: pq.write_table(table, temp))

    @classmethod
    def load(cls, path: Path) -> Manifest:
        rows = pq.read_table(path).to_pylist()
        return cls(tuple(Row(**{**r, "flags": tuple(r["flags"]), "inputs": json.loads(r["inputs"])}) for r in rows))

    def check(self, max_bad_fraction: float, where: str) -> None:
        """Raises RequestError where nothing is readable, TooManyBad above the stated share; both name a first reason."""
        bad = self.bad
        if not self.rows or not self.ok:
            first = f"; the first of {len(bad)}: {bad[0].reason}" if bad else ""
            raise RequestError(f"{where}: there is no readable record{first}")
        if len(bad) > max_bad_fraction * len(self.rows):
            raise TooManyBad(
                f"{where}: {len(bad)} of {len(self.rows)} records cannot be used, more than data.max_bad_fraction "
                f"{max_bad_fraction:g} allows; the first: {bad[0].reason}; `inspect` lists all"
            )


def reader(domain: Domain, data: Data) -> Reader:
    """The domain's reader of the recipe's folder, with its `data.options`."""
    made = load(domain.reader)(validated(load(domain.options), data.options, "data.options"), data.path)
    assert hasattr(made, "read")
    return made  # type: ignore[no-any-return]


def convert(domain: Domain, data: Data, sample: Sample) -> tuple[Sample, tuple[str, ...]]:
    """The recipe's named conversions, in order; one log line for each that changed something."""
    log = []
    for step in data.conversions:
        if step.name not in domain.conversions:
            raise RequestError(f"data.conversions: {nearest(step.name, list(domain.conversions))}")
        function = load(domain.conversions[step.name])
        sample, line = function(sample, **called(function, ("sample",), step.options, f"data.conversions {step.name}"))
        if line:
            log.append(line)
    return sample, tuple(log)


def scan(domain: Domain, data: Data, progress: Progress | None = None) -> tuple[Manifest, Counter[str]]:
    """Read every file below `data.path` once. Changes nothing.

    Returns the manifest and how often each conversion was made. Raises RequestError for a missing or empty folder.
    """
    root = data.path
    if not root.exists():
        raise RequestError(f"{root}: no such folder")
    source = reader(domain, data)
    files = source.files(root)
    if not files:
        raise RequestError(f"{root}: no file that {domain.name} can read; see `inspect --help` for the formats")
    secret = project_key()
    rows: list[Row] = []
    made: Counter[str] = Counter()
    for done, path in enumerate(files):
        rows += _rows(domain, data, source, path, secret, made)
        if progress:
            progress(done + 1, len(files))
    return Manifest(_distinct(rows)), made


def _rows(domain: Domain, data: Data, source: Reader, path: Path, secret: bytes, made: Counter[str]) -> list[Row]:
    name = path.relative_to(data.path).as_posix() if path != data.path else path.name

    def row(**changes: Any) -> Row:
        fixed: dict[str, Any] = {
            "key": PurePosixPath(name).with_suffix("").as_posix(),
            "file": name,
            "part": 0,
            "group": "",
            "status": "ok",
            "reason": "",
            "flags": (),
            "inputs": {},
        }
        return Row(**{**fixed, "sha256": "", **changes})

    rows: list[Row] = []
    samples = _read(source, path, name)
    part = -1
    while True:
        part += 1
        try:
            sample = next(samples)
        except StopIteration:
            return rows
        except BadInput as error:  # what a file gave before it broke is left out too: nobody would look for half of it
            return [row(status="quarantined", reason=str(error))]
        at = part if sample.index < 0 else sample.index
        about = {"key": sample.key, "part": at, "group": hashed(sample.group, secret)}
        try:
            sample, log = convert(domain, data, sample)
        except BadInput as error:
            rows.append(row(**about, status="quarantined", reason=str(error)))
            continue
        made.update(log)
        flags = tuple(sample.meta.get("flags", ()))
        rows.append(row(**about, flags=flags, inputs=facts(sample), sha256=content(sample)))


def _read(source: Reader, path: Path, name: str) -> Iterator[Sample]:
    try:
        yield from source.read(path)
    except OSError as error:
        raise BadInput(f"{name} cannot be read: {error.strerror}") from None


def facts(sample: Sample) -> dict[str, dict[str, Any]]:
    """What the contract needs to know about each input, without its values."""
    return {
        name: {
            "layout": x.layout,
            "channels": list(x.channels),
            "units": list(x.units),
            "unit": x.unit,
            "spacing": x.spacing and list(x.spacing),
            "shape": list(x.shape),
            "whole": x.valid is None or bool(x.valid.all()),
            "source": x.source,
        }
        for name, x in sample.inputs.items()
    }


def content(sample: Sample) -> str:
    """SHA-256 of the values of every input, so that a change beside the file (a body side, a unit) is seen too.

    Records that are often equal and yet not the same (two look-ups of a name) carry bytes of their own as meta "identity".
    """
    digest = hashlib.sha256(sample.meta.get("identity", b""))
    for name, x in sorted(sample.inputs.items()):
        digest.update(f"{name} {x.data.dtype} {x.data.shape} {x.units} {x.spacing} {x.source}".encode())
        for values in (x.data, x.valid, x.coords, x.edges):
            digest.update(b"-" if values is None else np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def leaks(manifest: Manifest) -> list[tuple[Row, ...]]:
    """Records of equal content that stand under more than one group."""
    by_content: dict[str, list[Row]] = defaultdict(list)
    for row in manifest.ok:
        by_content[row.sha256].append(row)
    return [tuple(rows) for rows in by_content.values() if len({r.group for r in rows}) > 1]


def check_leaks(manifest: Manifest) -> None:
    """Raises Leakage where one recording stands under two groups, so that no split by groups can keep it apart."""
    for rows in leaks(manifest):
        raise Leakage(
            f"{', '.join(r.file for r in rows)} hold the same values under different groups; "
            "keep one, or correct the groups"
        )


def _distinct(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Keys are what labels point at: a second record of the same key is quarantined, not silently numbered."""
    seen: dict[str, str] = {}
    out = []
    for row in rows:
        if row.ok and row.key in seen:
            row = replace(
                row,
                status="quarantined",
                reason=f"{row.file}: its key {row.key!r} is also that of {seen[row.key]}; rename one",
            )
        if row.ok:
            seen[row.key] = row.file
        out.append(row)
    return tuple(out)


def agreed(domain: Domain, data: Data, manifest: Manifest) -> dict[str, InputSpec]:
    """The contract most readable records fulfil, per input name."""
    votes: Counter[str] = Counter(
        json.dumps(
            {n: {k: f[k] for k in ("layout", "channels", "units", "unit", "spacing")} for n, f in r.inputs.items()}
        )
        for r in manifest.ok
    )
    common = json.loads(votes.most_common(1)[0][0])
    return {
        name: InputSpec(**f, axes=(AXIS_OF_TEXT,) if f["unit"] == AXIS_OF_TEXT else domain.axes, convert=data.convert)
        for name, f in common.items()
    }


def held_to(manifest: Manifest, specs: Mapping[str, InputSpec]) -> Manifest:
    """The manifest with every record quarantined that the contract refuses."""
    return Manifest(tuple(_held(r, specs) if r.ok else r for r in manifest))


def _held(row: Row, specs: Mapping[str, InputSpec]) -> Row:
    try:
        conform(row, specs)
    except Incompatible as error:
        return replace(row, status="quarantined", reason=str(error))
    return row


def conform(row: Row, specs: Mapping[str, InputSpec]) -> tuple[str, ...]:
    """The conversions that bring a record to the contract. Raises Incompatible where there are none."""
    lines: list[str] = []
    for name, spec in specs.items():
        if name not in row.inputs:
            raise Incompatible(f"{row.file}: the input {name!r} is missing (found {', '.join(row.inputs)})")
        lines += spec.check(row.inputs[name], row.file)
    return tuple(lines)
