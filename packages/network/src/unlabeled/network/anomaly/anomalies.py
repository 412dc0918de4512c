"""The verb `anomalies`: how far each record lies from normal ones. Imports nothing heavy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from unlabeled.core.cli.domain import AS_JSON, BUNDLE, CONVERT, OPTION, _options, _own
from unlabeled.core.cli.shell import out, progress
from unlabeled.core.contracts.domain import domain


def anomalies(
    bundle: Path = BUNDLE,
    path: Path = typer.Argument(..., help="captures, tables or lists to look through", show_default=False),
    normal: Path = typer.Option(
        ..., "--normal", help="folder of the same kind that is known to be normal", show_default=False
    ),
    to: Path = typer.Option(..., "-o", help="Parquet file to write", show_default=False),
    labels: Path | None = typer.Option(
        None, "--labels", help="CSV with the columns key and label, anomaly or normal, or 1 or 0", show_default=False
    ),
    neighbours: int = typer.Option(5, "--neighbours", min=1, help="how many normal records the distance is taken to"),
    convert: list[str] = CONVERT,
    option: list[str] = OPTION,
    allow_seen: bool = typer.Option(
        False, "--allow-seen", help="also score groups seen in pretraining or among the normal ones; the result says so"
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Score every record by its distance to normal ones, beside random weights and the flows' own statistics."""
    _own(domain("network"), bundle)
    from unlabeled.network.anomaly.scores import find

    with progress("anomalies") as update:
        found = find(bundle, path, normal, to, labels, neighbours, convert, _options(option), allow_seen, update)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    if "scores" in found:
        show(found)
    out.print(
        f"{to}: scores of {found['records']} records by their distance to {found['normal_records']}", markup=False
    )


def show(found: dict[str, Any]) -> None:
    """The comparison as a table."""
    from rich.box import SIMPLE
    from rich.table import Table

    metrics = list(next(iter(found["scores"].values())))
    table = Table("score", *(f"{m.replace('_', ' ')}\n[95 %]" for m in metrics), box=SIMPLE, padding=(0, 1, 0, 0))
    for name, row in found["scores"].items():
        table.add_row(name, *(_said(row[m]) for m in metrics))
    out.print(table)
    out.print(f"{found['anomalies']} anomalies among {found['labelled']} labelled records of {found['groups']} groups")


def _said(s: dict[str, float | None]) -> str:
    if s["score"] is None:
        return "not defined"
    return f"{s['score']:.3f}" + (" (no interval)" if s["low"] is None else f" [{s['low']:.3f}, {s['high']:.3f}]")
