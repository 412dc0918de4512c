"""Flows on disk: Arrow shards that are read by memory map, and the verb `flows` that makes them of captures."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unlabeled.core.cli.shell import out, progress
from unlabeled.core.contracts import BadInput, RequestError, TooManyBad

if TYPE_CHECKING:
    from unlabeled.network.flow.flows import Flows
    from unlabeled.network.options import ReaderOptions

log = logging.getLogger(__name__)

LIMIT = 128 << 20  # bytes of a shard at most: one in the making is in memory twice
MANIFEST = "flows.json"
_FORMAT = b"unlabeled-network flows 1"
_STAGING = ".writing"
# what of the options makes the flows what they are
_OPTIONS = (
    "bursts",
    "packets",
    "gap",
    "payload",
    "tcp_options",
    "min_packets",
    "idle",
    "idle_other",
    "active",
    "max_flows",
    "tunnels",
)


def flows(
    path: Path = typer.Argument(..., help="a capture, or a folder of captures, read recursively", show_default=False),
    overrides: list[str] = typer.Argument(
        None, help="options of the reader, as gap=0.02 or payload=true", show_default=False
    ),
    to: Path = typer.Option(
        ..., "-o", help="folder to write; what an earlier call wrote there stays", show_default=False
    ),
    max_bad: float = typer.Option(
        0.01, "--max-bad", min=0, max=1, help="share of unreadable captures above which the exit code is 3"
    ),
    as_json: bool = typer.Option(False, "--json", help="machine-readable output"),
) -> None:
    """Put captures into flows once, as Arrow shards without addresses and ports; later calls read those instead."""
    from unlabeled.core.contracts.recipe import parsed, validated
    from unlabeled.core.files import outside
    from unlabeled.network.options import ReaderOptions

    outside(path, to)
    given = {}
    for pair in overrides or []:
        name, equals, text = pair.partition("=")
        if not equals or name not in _OPTIONS:
            raise RequestError(f"{pair!r} is no option of flows; give one of {', '.join(_OPTIONS)} as gap=0.02")
        given[name] = parsed(text, pair)
    options = validated(ReaderOptions, given, "flows")
    sources = _sources(path)
    manifest = _manifest(to, options)
    bad, made, before = [], 0, 0
    with progress("captures") as update:
        for done, (stem, source) in enumerate(sources.items(), start=1):
            try:
                wrote = shard(source, stem, to, options, manifest)
                made, before = made + wrote, before + (not wrote)
            except BadInput as error:
                log.warning("left out: %s", error)
                bad.append(str(error))
            update(done, len(sources))
    if len(bad) == len(sources):
        raise RequestError(f"{path}: there is no readable capture; the first of {len(bad)}: {bad[0]}")
    found = [manifest["captures"][stem] for stem in sources if stem in manifest["captures"]]
    counts = sum((Counter(f["counts"]) for f in found), Counter[str]())
    if as_json:
        print(json.dumps({"captures": len(found), "written": made, "bad": len(bad), "counts": counts}, indent=2))
    else:
        shards = sum(len(f["shards"]) for f in found)
        out.print(f"{to}: {counts['flows']} flows of {len(found)} captures in {shards} shards", markup=False)
        if before:
            out.print(f"{before} of the captures were there before", markup=False)
        for what, n in sorted(counts.items()):
            out.print(f"  {what}: {n}", markup=False)
    if len(bad) > max_bad * len(sources):
        raise TooManyBad(
            f"{path}: {len(bad)} of {len(sources)} captures cannot be read, more than --max-bad {max_bad:g} allows; the others "
            f"are written; the first: {bad[0]}"
        )


def _sources(path: Path) -> dict[str, Path]:
    """The captures by their path without endings, which names their shards. RequestError for none, or two of one name."""
    from unlabeled.network import kinds
    from unlabeled.network.options import ReaderOptions

    if not path.exists():
        raise RequestError(f"{path}: no such file or folder")
    root = path if path.is_dir() else path.parent
    found: dict[str, Path] = {}
    for source in kinds.files(path, ReaderOptions(kind="captures")) if path.is_dir() else [path]:
        if source.name.endswith(kinds.SHARD):
            continue
        stem = kinds.stem(source.relative_to(root).as_posix())
        if stem in found:
            raise RequestError(f"{source.name} and {found[stem].name} would both become {Path(stem).name}; rename one")
        found[stem] = source
    if not found:
        raise RequestError(f"{path}: there is no capture; it needs one of {', '.join(kinds.CAPTURES)}")
    return found


def _manifest(to: Path, options: ReaderOptions) -> dict[str, Any]:
    """What earlier calls wrote. Raises RequestError where the folder holds something else, or flows of other options."""
    from unlabeled.core.files import free, write_json

    chosen = {name: getattr(options, name) for name in _OPTIONS}
    file = to / MANIFEST
    if not file.exists():
        if not (to.is_dir() and [p.name for p in to.iterdir()] == [_STAGING]):
            free(to)
        to.mkdir(parents=True, exist_ok=True)
        write_json(file, {"options": chosen, "captures": {}})
    try:
        found: dict[str, Any] = json.loads(file.read_text())
        other = [name for name in _OPTIONS if found["options"][name] != chosen[name]]
        found["captures"].values()
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RequestError(f"{file} is no list of shards; remove it, or choose another folder with -o") from None
    if other:
        raise RequestError(f"{to} holds flows of another {other[0]}; choose another folder with -o")
    return found


def shard(source: Path, stem: str, to: Path, options: ReaderOptions, manifest: dict[str, Any]) -> bool:
    """Writes the shards of one capture, whole or not at all, and notes it in the manifest; False where they are there.

    Named `<stem>.flows.arrow`, and `<stem>.part2.flows.arrow` and so on beyond 128 MB. Their flows stand in the order in
    which they ended. Raises BadInput where the capture cannot be read.
    """
    from unlabeled.core.files import sha256, sync, write_json
    from unlabeled.network import capture
    from unlabeled.network.flow.assemble import Assembler
    from unlabeled.network.kinds import SHARD

    digest, known = sha256(source), manifest["captures"].get(stem)
    if known and known["sha256"] == digest and all((to / name).is_file() for name in known["shards"]):
        return False
    staging = to / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    assembler, packets = Assembler(options), capture.read(source, options=options.tcp_options, tunnels=options.tunnels)

    def ended() -> Iterator[Flows]:
        for part in packets:
            yield assembler.add(part)
        yield from assembler.pieces()

    names = []
    for n, parts in enumerate(_filled(ended(), LIMIT), start=1):
        names.append(f"{stem}{f'.part{n}' if n > 1 else ''}{SHARD}")
        write_shard(staging / str(n), parts)
        sync(staging / str(n))
    place = (to / stem).parent
    place.mkdir(parents=True, exist_ok=True)
    for old in known["shards"] if known else ():
        (to / old).unlink(missing_ok=True)
    for n, name in enumerate(names, start=1):
        (staging / str(n)).replace(to / name)
    sync(place)
    for flag in packets.flags:
        log.warning("%s: %s", source.name, flag)
    counts = {**packets.counts, **assembler.counts}
    about = {"sha256": digest, "shards": names, "counts": {what: n for what, n in sorted(counts.items()) if n}}
    manifest["captures"][stem] = about | {"flags": list(packets.flags)}
    write_json(to / MANIFEST, manifest)
    staging.rmdir()
    return True


def _filled(parts: Iterator[Flows], limit: int) -> Iterator[list[Flows]]:
    """Flows for one shard after the other, none of more than `limit` bytes unless one flow is; one shard at least."""
    import numpy as np

    waiting: list[Flows] = []
    size = wrote = 0
    for part in parts:
        each = 512 + 7 * np.diff(part.offsets)  # bytes of a flow, its fixed columns rounded up
        while len(part):
            fit = int(np.searchsorted(np.cumsum(each), limit - size, side="right"))
            if fit or not waiting:
                fit = max(fit, 1)
                waiting.append(part.take(np.arange(fit)) if fit < len(part) else part)
                size += int(each[:fit].sum())
            if fit < len(part):
                yield waiting
                waiting, size, wrote = [], 0, wrote + 1
            part, each = part.take(np.arange(fit, len(part))), each[fit:]
    if waiting or not wrote:
        yield waiting or [part]


def write_shard(path: Path, parts: Sequence[Flows]) -> None:
    """Writes flows as one uncompressed Arrow record batch: without addresses, ports, VLANs and first bytes of payload.

    In place of those stands nothing, and 0 among the shortcuts.
    """
    import numpy as np
    import pyarrow as pa

    from unlabeled.network.flow.flows import Flows
    from unlabeled.network.flow.statistics import NAMES, SHORTCUTS

    found = Flows.joined(parts) if len(parts) > 1 else parts[0]
    shortcuts = np.where(
        [name.startswith(("port", "address", "byte")) for name in SHORTCUTS], np.float32(0), found.shortcuts
    )

    def fixed(values: Any) -> Any:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])

    offsets = pa.array(found.offsets)
    rows = pa.Array.from_buffers(
        pa.binary(6), len(found.tokens), [None, pa.py_buffer(np.ascontiguousarray(found.tokens))]
    )
    columns = {name: pa.array(getattr(found, name)) for name in _PLAIN}
    columns |= {name: fixed(getattr(found, name)) for name in _BOTH}
    columns |= {"statistics": fixed(found.statistics), "shortcuts": fixed(shortcuts)}
    columns["tokens"] = pa.LargeListArray.from_arrays(offsets, rows)
    columns["valid"] = pa.LargeListArray.from_arrays(offsets, pa.array(found.valid.view(np.uint8)))
    metadata = {"format": _FORMAT, "statistics": json.dumps(NAMES), "shortcuts": json.dumps(SHORTCUTS)}
    batch = pa.RecordBatch.from_pydict(columns).replace_schema_metadata(metadata)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)


_PLAIN = ("number", "start", "end", "protocol", "version", "ended")
_BOTH = ("packets", "bytes", "payload")


def open_shard(path: Path) -> Flows:
    """The flows of a shard, as views of the file: only what is looked at is read.

    Addresses, ports and VLANs are not in it, and read as 0. Raises BadInput where the file is none, or not whole.
    """
    import numpy as np
    import pyarrow as pa

    from unlabeled.network.flow.flows import Flows
    from unlabeled.network.flow.statistics import NAMES, SHORTCUTS

    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OSError):
        raise BadInput(f"{path.name} is no whole Arrow file; make it again with the verb flows") from None
    about = file.schema.metadata or {}
    names = {"statistics": NAMES, "shortcuts": SHORTCUTS}
    same = all(about.get(n.encode()) == json.dumps(v).encode() for n, v in names.items())
    if about.get(b"format") != _FORMAT or not same or file.num_record_batches != 1:
        raise BadInput(f"{path.name} is no shard of flows of this version; make it again with the verb flows")
    batch = file.get_batch(0)
    n = len(batch)

    def plain(column: Any) -> Any:
        return column.to_numpy(zero_copy_only=True)

    def nothing(kind: Any, *shape: int) -> Any:
        return np.broadcast_to(np.zeros((), kind), (n, *shape))

    tokens = batch["tokens"]
    values = np.frombuffer(tokens.values.buffers()[1] or b"", np.uint8)
    return Flows(
        **{name: plain(batch[name]) for name in _PLAIN},
        **{
            name: plain(batch[name].values).reshape(n, batch[name].type.list_size)
            for name in (*_BOTH, "statistics", "shortcuts")
        },
        src=nothing(np.uint64, 2),
        dst=nothing(np.uint64, 2),
        sport=nothing(np.uint16),
        dport=nothing(np.uint16),
        vlan=nothing(np.uint16),
        tokens=values[: 6 * len(tokens.values)].reshape(-1, 6),
        valid=plain(batch["valid"].values).view(np.bool_),
        offsets=plain(tokens.offsets),
    )
