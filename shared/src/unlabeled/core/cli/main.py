"""`unlabeled`: what is installed, and whether this machine can run it."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import typer

from unlabeled.core.cli.atoms import add_to as add_atoms
from unlabeled.core.cli.curate import add_to as add_curate
from unlabeled.core.cli.export import add_to as add_export
from unlabeled.core.cli.shell import make_app, out, run
from unlabeled.core.contracts import MethodCard, RequestError

app = make_app("unlabeled", "Pretraining for data nobody has labelled: the domains and methods installed here.")

AS_JSON = typer.Option(False, "--json", help="machine-readable output")


@app.command()
def domains(as_json: bool = AS_JSON) -> None:
    """List the installed domains."""
    from unlabeled.core.contracts.domain import domains as installed

    rows = [d.row() for d in installed().values()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        out.print(f"[bold]{row['name']}[/bold]  {row['summary']}  (unlabeled-{row['name']} --help)")


@app.command()
def methods(
    name: str | None = typer.Argument(None, help="one of them, to be described in full", show_default=False),
    as_json: bool = AS_JSON,
) -> None:
    """List the installed methods, views, plans and baselines with their papers and tests, or describe one in full."""
    from unlabeled.core.contracts.domain import methods as installed

    cards = installed()
    if name is not None:
        _describe(name, cards, as_json)
        return
    rows = [card.row() for card in cards.values()]
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        out.print(f"[bold]{row['name']}[/bold]  {row['kind']}, {row['family']}: {row['summary']}")
        if row["paper"]:
            out.print(f"    {row['paper']}", markup=False)


def _describe(name: str, cards: dict[str, MethodCard], as_json: bool) -> None:
    from unlabeled.core.contracts.recipe import nearest

    if name not in cards:
        raise RequestError(f"methods: {nearest(name, list(cards))}")
    from unlabeled.core.cli.methods import about, other, page, page_of_other

    if cards[name].kind == "method":
        found = about(cards[name])
        print(json.dumps(asdict(found), indent=2) if as_json else page(found))
        return
    text = other(cards[name])
    print(
        json.dumps({"card": asdict(cards[name]), "text": text}, indent=2)
        if as_json
        else page_of_other(cards[name], text)
    )


@app.command()
def compare(
    runs: list[Path] = typer.Argument(..., help="run and study folders, two or more", show_default=False),
    as_json: bool = AS_JSON,
) -> None:
    """Put runs and studies side by side: recipes, steps, losses, health, data; scores with paired differences."""
    from unlabeled.core.studies import compare as put_together
    from unlabeled.core.studies.side_by_side import show

    found = put_together(runs)
    print(json.dumps(found, indent=2)) if as_json else out.print(show(found))


@app.command()
def report(run: Path = typer.Argument(..., help="run or study folder", show_default=False)) -> None:
    """Write the HTML page of a run or a study again, from the files in its folder."""
    from unlabeled.core.report import write

    out.print(f"report: {write(run)}", markup=False)


@app.command()
def doctor(as_json: bool = AS_JSON) -> None:
    """Check this machine: versions, devices, memory, the project key."""
    from unlabeled.core.cli.doctor import examine

    report = examine()
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        for check in report["checks"]:
            sign = "[green]ok[/green]" if check["ok"] else "[red]fault[/red]"
            out.print(f"{sign}  {check['name']}: {check['found']}" + (f" ({check['mend']})" if not check["ok"] else ""))
    if not all(check["ok"] for check in report["checks"]):
        raise typer.Exit(1)


add_export(app)
add_curate(app)
add_atoms(app)


def main() -> None:
    sys.exit(run(app))
