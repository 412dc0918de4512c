"""Inspect: what is in a folder and what is broken, without changing anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.table import Table

from unlabeled.core.cli.shell import out
from unlabeled.core.contracts import Domain, RequestError
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.data.groups import distinct
from unlabeled.core.data.manifest import Manifest, Progress, agreed, held_to, leaks, scan


def report(domain: Domain, data: Data, progress: Progress | None = None) -> dict[str, Any]:
    """Counts, contract, groups, flags, leaks and unreadable files, as plain JSON.

    Raises RequestError where the folder is missing, empty, or holds nothing readable.
    """
    manifest, made = scan(domain, data, progress)
    if not manifest.ok:
        manifest.check(1.0, str(data.path))
        raise RequestError(f"{data.path}: there is no readable record")
    specs = agreed(domain, data, manifest)
    manifest = held_to(manifest, specs)
    return {
        "path": str(data.path),
        "records": len(manifest.ok),
        "unreadable_share": len(manifest.bad) / len(manifest.rows),
        "unreadable": [{"file": r.file, "reason": r.reason} for r in manifest.bad],
        "inputs": {name: {**spec.model_dump(mode="json"), **_extent(manifest, name)} for name, spec in specs.items()},
        "groups": dict(sorted(Counter(r.group for r in manifest.ok).items())),
        "flags": _tally([f for r in manifest.ok for f in r.flags]),
        "conversions": dict(made),
        "leaks": [
            {"files": [r.file for r in rows], "groups": distinct(r.group for r in rows)} for rows in leaks(manifest)
        ],
    }


def _tally(flags: Sequence[str]) -> dict[str, int]:
    """How often each was said; one that ends with a number, as `arp: 12`, counts so often."""
    found: Counter[str] = Counter()
    for flag in flags:
        what, _, number = flag.rpartition(": ")
        found.update({what: int(number)} if what and number.isdecimal() else {flag: 1})
    return dict(sorted(found.items()))


def _extent(manifest: Manifest, name: str) -> dict[str, Any]:
    """Shortest, longest and total length of each axis, in cells and in physical units."""
    facts = [r.inputs[name] for r in manifest.ok]
    shapes = np.array([f["shape"] for f in facts], float)
    steps = np.array([f["spacing"] or [1.0] * shapes.shape[1] for f in facts], float)
    extent = shapes * steps
    return {
        "shortest": extent.min(0).tolist(),
        "longest": extent.max(0).tolist(),
        "total": extent.sum(0).tolist(),
        "sources": dict(sorted(Counter(f["source"] for f in facts).items())),
    }


def show(found: dict[str, Any]) -> None:
    """The report for a reader."""
    bad = found["unreadable"]
    out.print(f"{found['path']}: {found['records']} records, {len(bad)} that cannot be used", markup=False)
    for name, x in found["inputs"].items():
        channels = ", ".join(f"{c} [{u}]" if u else c for c, u in zip(x["channels"], x["units"], strict=True))
        out.print(f"input {name} ({x['layout']}): {channels}", markup=False)
        if x["layout"] != "dense":  # tokens and nodes lie on no grid
            (low,), (high,), (total,) = x["shortest"], x["longest"], x["total"]
            out.print(f"  length: {low:.4g} to {high:.4g} a record, {total:.6g} in all", markup=False)
        axes = x["axes"] if x["layout"] == "dense" else ()
        for axis, step, low, high, total in zip(
            axes, x["spacing"] or [None] * len(axes), x["shortest"], x["longest"], x["total"], strict=False
        ):
            rate = f"{1 / step:g} Hz, " if x["unit"] == "s" and step else f"step {step:g} {x['unit']}, " if step else ""
            out.print(
                f"  {axis}: {rate}{low:.4g} to {high:.4g} {x['unit']} a record, {total:.6g} {x['unit']} in all",
                markup=False,
            )
        sources = ", ".join(f"{source or 'unnamed'} ({n})" for source, n in x["sources"].items())
        out.print(f"  sources: {sources}", markup=False)
    counts = list(found["groups"].values())
    out.print(f"groups: {len(counts)}, of {min(counts)} to {max(counts)} records (shown as keyed hashes with --json)")
    for title in ("flags", "conversions"):
        for line, count in found[title].items():
            out.print(f"{title[:-1]}: {line} ({count})", markup=False)
    for leak in found["leaks"]:
        out.print(
            f"leak: {', '.join(leak['files'])} hold the same data under {len(leak['groups'])} groups", markup=False
        )
    if bad:
        table = Table("file", "why it cannot be used")
        for row in bad:
            table.add_row(row["file"], row["reason"])
        out.print(table, markup=False)  # a file or a reason may hold brackets, as "acc_x [g]"
