"""The verb `leakcheck`: could the score have been had without looking at the traffic?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from unlabeled.core.cli.domain import AS_JSON, CONVERT, LABELS, OPTION, SEEN, _options, _own
from unlabeled.core.cli.shell import out, progress
from unlabeled.core.contracts.domain import domain


def leakcheck(
    path: Path = typer.Argument(..., help="folder of captures, read recursively", show_default=False),
    labels: Path = LABELS,
    bundle: Path | None = typer.Option(
        None,
        "--bundle",
        help="folder that `pretrain` wrote: its frozen encoder stands in the table",
        show_default=False,
    ),
    seeds: int = typer.Option(5, "--seeds", min=1, help="splits, each with its own draws of the probes"),
    convert: list[str] = CONVERT,
    option: list[str] = OPTION,
    allow_seen: bool = SEEN,
    as_json: bool = AS_JSON,
    to: Path | None = typer.Option(None, "-o", help="JSON file to write", show_default=False),
) -> None:
    """Train small probes on what must not decide: ports, addresses, TTL, first bytes. Split by group, as everything is."""
    from unlabeled.core.files import free_file, outside, write_json
    from unlabeled.network.leaks.probes import check

    if bundle is not None:
        _own(domain("network"), bundle)
    if to is not None:
        outside(path, to)
        free_file(to)
    with progress("probes") as update:
        found = check(
            path, labels, _options(option), bundle, seeds, convert=convert, allow_seen=allow_seen, progress=update
        )
    if to is not None:
        write_json(to, found)
    print(json.dumps(found, indent=2)) if as_json else show(found)


def show(found: dict[str, Any]) -> None:
    """The result as a table and sentences."""
    from rich.box import SIMPLE
    from rich.table import Table

    beside = found["beside"]
    table = Table("probe", f"{found['metric']}\n[95 %]", f"minus {beside}\n[95 %]", box=SIMPLE, padding=(0, 1, 0, 0))
    for name, s in found["scores"].items():
        gain = f"{s['gain']:+.3f} [{s['gain_low']:+.3f}, {s['gain_high']:+.3f}]" if "gain" in s else ""
        table.add_row(name, f"{s['score']:.3f} [{s['low']:.3f}, {s['high']:.3f}]", gain)
    out.print(table)
    out.print(
        f"n = {found['flows']} labelled flows of {len(found['classes'])} classes; {found['groups']} groups are left out in turn, "
        f"{found['seeds']} seeds; intervals over groups and seeds",
        markup=False,
    )
    twins = found["twins"]
    out.print(f"near twins in another group: {twins['share']:.1%} of the flows ({twins['what']})", markup=False)
    for warning in found["warnings"]:
        out.print(f"warning: {warning}", markup=False)
