"""The verb `labels`: what a table says of captures, or of flows by their ends, as the labels.csv of all other verbs."""

from __future__ import annotations

from pathlib import Path

import typer

from unlabeled.core.cli.domain import OPTION, _options
from unlabeled.core.cli.shell import out, progress


def labels(
    path: Path = typer.Argument(..., help="folder of captures, as the other verbs read it", show_default=False),
    table: Path = typer.Argument(
        ...,
        help="CSV, or separated by tabs: capture and label, and, where it is of flows, some of protocol, src, sport, dst, dport; "
        "the ends in either order",
        show_default=False,
    ),
    to: Path = typer.Option(..., "-o", help="labels.csv to write", show_default=False),
    column: list[str] = typer.Option(
        [], "--column", help="a column that has another name, as label=category; may be repeated", show_default=False
    ),
    partial: bool = typer.Option(
        False,
        "--partial",
        help="leave out what does not fit, and count it: lines that cannot be read or whose capture is not there, flows without "
        "a line or of two labels",
    ),
    option: list[str] = OPTION,
) -> None:
    """Write a label for each flow that a table knows. No address is written."""
    from unlabeled.network.label_table import write

    with progress("captures") as update:
        found = write(path, table, to, _options(column), _options(option), partial, update)
    out.print(f"{to}: {found['flows']} flows of {len(found['classes'])} classes", markup=False)
    for name, count in found["classes"].items():
        out.print(f"  {name}: {count}", markup=False)
    for line in found["left_out"]:
        out.print(f"left out: {line}", markup=False)
