"""The verb `anonymise`: captures without addresses, names and payload, that still hold the same flows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from unlabeled.core.cli.shell import out, progress
from unlabeled.core.contracts import BadInput, RequestError, TooManyBad

if TYPE_CHECKING:
    from unlabeled.network.privacy.anonymiser import Anonymiser

log = logging.getLogger(__name__)

BLOCK = 4 << 20  # bytes of a capture at a time


def anonymise(
    path: Path = typer.Argument(..., help="a capture, or a folder of captures, read recursively", show_default=False),
    to: Path = typer.Option(..., "-o", help="pcap file, or folder, to write", show_default=False),
    key: Path | None = typer.Option(
        None,
        "--key",
        help="file with the key, 64 hexadecimal digits; none: those in $UNLABELED_NETWORK_KEY. The same key maps an address alike "
        "in every capture, and whoever has it can tell which address was which",
        show_default=False,
    ),
    new_key: Path | None = typer.Option(
        None, "--new-key", help="make a key, write it into this file, and use it", show_default=False
    ),
    payload: int = typer.Option(
        0, "--payload", min=0, help="bytes to keep behind TCP, UDP and echo headers; they may tell names and addresses"
    ),
    ports: bool = typer.Option(False, "--ports", help="replace port numbers too, one to one"),
    shift: bool = typer.Option(False, "--shift", help="set all times back by a span that the key gives"),
    max_bad: float = typer.Option(
        0.01, "--max-bad", min=0, max=1, help="share of unreadable captures above which the exit code is 3"
    ),
) -> None:
    """Replace every address, prefix by prefix (Crypto-PAn), and cut payload away. Flows and their tokens stay the same."""
    from unlabeled.core.files import free, free_file, outside
    from unlabeled.network.privacy.anonymiser import Anonymiser
    from unlabeled.network.privacy.key_file import new_key as make
    from unlabeled.network.privacy.key_file import read_key

    outside(path, to)
    (free if path.is_dir() else free_file)(to)
    pairs = _pairs(path, to)
    if key is not None and new_key is not None:
        raise RequestError("--key names a key that is there and --new-key one that is not; leave one of them out")
    with_key = make(new_key) if new_key is not None else read_key(key)
    if payload:
        log.warning(
            "--payload %d: the payload that stays may tell names and addresses; look before you share it", payload
        )
    anonymiser = Anonymiser(with_key, payload=payload, ports=ports, shift=shift)
    frames, bad = 0, []
    with progress("captures") as update:
        for done, (source, target) in enumerate(pairs):
            try:
                frames += rewrite(source, target, anonymiser)
            except BadInput as error:
                log.warning("left out: %s", error)
                bad.append(str(error))
            update(done + 1, len(pairs))
    if len(bad) == len(pairs):
        raise RequestError(f"{path}: there is no readable capture; the first of {len(bad)}: {bad[0]}")
    out.print(f"{to}: {frames} frames of {len(pairs) - len(bad)} captures, without link layer", markup=False)
    for why, count in sorted(anonymiser.dropped.items()):
        out.print(f"dropped: {why} ({count})", markup=False)
    if len(bad) > max_bad * len(pairs):
        raise TooManyBad(
            f"{path}: {len(bad)} of {len(pairs)} captures cannot be read, more than --max-bad {max_bad:g} allows; the others "
            f"are written; the first: {bad[0]}"
        )


def _pairs(path: Path, to: Path) -> list[tuple[Path, Path]]:
    """Each capture, and the pcap file that is made of it. Raises RequestError where there is none, or two make one."""
    from unlabeled.network import kinds
    from unlabeled.network.options import ReaderOptions

    if not path.exists():
        raise RequestError(f"{path}: no such file or folder")
    if not path.is_dir():
        return [(path, to)]
    sources = [p for p in kinds.files(path, ReaderOptions(kind="captures")) if not p.name.endswith(kinds.SHARD)]
    if not sources:
        raise RequestError(f"{path}: there is no capture; it needs one of {', '.join(kinds.CAPTURES)}")
    made: dict[Path, Path] = {}
    for source in sources:
        target = to / (kinds.stem(source.relative_to(path).as_posix()) + ".pcap")
        if target in made:
            raise RequestError(f"{source.name} and {made[target].name} would both become {target.name}; rename one")
        made[target] = source
    return [(source, target) for target, source in made.items()]


def rewrite(source: Path, target: Path, anonymiser: Anonymiser) -> int:
    """Write one capture anonymised, whole or not at all; returns how many frames it has then.

    Raises BadInput where nothing can be read of the source.
    """
    from unlabeled.core.files import write_atomic
    from unlabeled.network.capture.containers import frames
    from unlabeled.network.capture.links import LINKS
    from unlabeled.network.privacy.anonymiser import HEADER

    count, flags = 0, list[str]()

    def write(temp: Path) -> None:
        nonlocal count
        links: set[int] = set()
        with temp.open("wb") as file:
            file.write(HEADER)
            for stretch in frames(source, BLOCK, flags):
                links |= set(stretch.link.tolist())
                for record in anonymiser.records(stretch):
                    file.write(record)
                    count += 1
        if links and not links & LINKS.keys():
            raise BadInput(
                f"{source.name}: frames of link type {', '.join(map(str, sorted(links)))} cannot be read; those of "
                f"{', '.join(map(str, sorted(LINKS)))} can"
            )

    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, write)
    for flag in flags:
        log.warning("%s: %s", source.name, flag)
    return count
