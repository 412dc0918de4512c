"""The verb `inputs`: what size and normaliser do to frozen features, on labelled data. Imports nothing heavy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from unlabeled.core.cli.shell import out, progress
from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import read_recipe
from unlabeled.core.files import free_file, write_json


def inputs(
    recipe: Path = typer.Argument(..., help="recipe in YAML, with study.labels", show_default=False),
    overrides: list[str] = typer.Argument(None, help="changes to it, as key.sub=value", show_default=False),
    start: list[str] = typer.Option(
        ["random"],
        "--start",
        help="weights: random, a bundle's folder, torchgeo:NAME, timm:NAME or a file; may be repeated",
    ),
    sizes: str = typer.Option("", "--sizes", help="cells to resize chips to, as 32,64; always beside their own size"),
    normalisers: str = typer.Option("", "--normalisers", help="as none,standard,div10000; none given: the recipe's"),
    to: Path | None = typer.Option(None, "-o", help="JSON file to write", show_default=False),
    as_json: bool = typer.Option(False, "--json", help="machine-readable output"),
) -> None:
    """Score frozen weights at several input sizes and normalisers, beside image statistics and random convolutions."""
    if to is not None:
        free_file(to)
    read = read_recipe(recipe, overrides or [])
    if read.domain != "earth":
        raise RequestError(f"{recipe} is a recipe for {read.domain}; use unlabeled-{read.domain}")
    chosen = tuple(n for n in normalisers.split(",") if n) or (read.data.normaliser,)
    wanted = _sizes(sizes)
    from unlabeled.earth.input_study import compare

    with progress("inputs") as update:
        found = compare(read, start, wanted, chosen, update)
    if to is not None:
        write_json(to, found)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    show(found)


def show(found: dict[str, Any]) -> None:
    """The result as a table, with the size of pretraining beside each row and what the guard would say."""
    from rich.box import SIMPLE
    from rich.table import Table

    heads = list(found["rows"][0]["scores"])
    columns = ("start", "normaliser", "cells", "pretraining", *(f"{head}\n[95 %]" for head in heads))
    table = Table(*columns, box=SIMPLE, padding=(0, 1, 0, 0))
    for row in found["rows"]:
        scores = [row["scores"][head]["macro_f1"] for head in heads]
        said = (f"{s['score']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" for s in scores)
        mark = " !" if row["refused"] else ""
        before = "" if row["pretraining_cells"] is None else str(row["pretraining_cells"])
        table.add_row(row["start"], row["normaliser"] + mark, str(row["cells"]), before, *said)
    out.print(table)
    out.print(
        f"macro-F1 of {found['chips']} chips that do not overlap, in {found['groups']} groups and {found['folds']} folds; "
        f"{found['dropped']} chips without a clear label left out"
    )
    for line in dict.fromkeys(row["refused"] for row in found["rows"] if row["refused"]):
        out.print(f"! refused elsewhere: {line}", markup=False)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(",") if part)
    except ValueError:
        sizes = (0,)
    if any(size < 1 for size in sizes):
        raise RequestError(f"--sizes {text!r} is no list of cells; give it as 32,64")
    return sizes
