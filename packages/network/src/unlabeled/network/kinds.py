"""What a folder holds: captures, tables of flows, or lists of URLs, told by the endings of its files."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from unlabeled.core.contracts import RequestError
from unlabeled.network.options import ReaderOptions

Kind = Literal["captures", "tables", "urls"]

SHARD = ".flows.arrow"
CAPTURES = (".pcap", ".pcapng", ".cap")
_COMPRESSED = ".gz"
_SIDECARS = ("labels.csv", "folds.csv")


def kind(path: Path) -> Kind | None:
    """What this file is; None where it is nothing that is read here."""
    name = path.name.lower()
    if name in _SIDECARS:
        return None
    if name.endswith(SHARD) or name.removesuffix(_COMPRESSED).endswith(CAPTURES):
        return "captures"
    if name.endswith(".urls"):
        return "urls"
    if name.endswith(".log"):
        return "tables"
    if name.endswith(".csv"):
        return "urls" if "url" in _columns(path) else "tables"
    return None


def _columns(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            line = file.readline(1 << 16)
    except OSError:
        return []
    return [c.strip().strip('"').lower() for c in line.decode("utf-8-sig", "replace").strip().split(",")]


def stem(name: str) -> str:
    """A file's path without the endings that say what it is: `a/web.pcap.gz` is `a/web`."""
    endings = (SHARD, *CAPTURES, ".urls", ".log", ".csv")
    bare = name[: -len(_COMPRESSED)] if name.lower().endswith(_COMPRESSED) else name
    ending = next((e for e in endings if bare.lower().endswith(e)), "")
    if not ending:
        return name
    found = bare[: len(bare) - len(ending)]
    capture, _, part = found.rpartition(".part")  # further shards of one capture, see shards.shard
    return capture if ending == SHARD and capture and part.isdigit() else found


def files(root: Path, options: ReaderOptions) -> list[Path]:
    """The readable files below `root`, sorted, without sidecars and hidden ones, all of one kind.

    Raises RequestError where there are several kinds and the options name none.
    """
    if root.is_file():
        return [root] if kind(root) in (options.kind or kind(root), None) and kind(root) else []
    found = {
        p: k
        for p in sorted(root.rglob("*"))
        if p.is_file() and not any(part.startswith(".") for part in p.relative_to(root).parts) and (k := kind(p))
    }
    kinds = sorted(set(found.values()))
    if options.kind is None and len(kinds) > 1:
        raise RequestError(
            f"{root} holds {' and '.join(kinds)}; name one of them by options.kind, or keep them in folders of their own"
        )
    return [p for p, k in found.items() if options.kind in (None, k)]


def kind_of(root: Path, options: ReaderOptions) -> Kind:
    """The one kind of a folder or file; captures where it holds nothing."""
    if options.kind is not None:
        return options.kind
    here = files(root, options) if root.exists() else []
    return (kind(here[0]) if here else None) or "captures"
