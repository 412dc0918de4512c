"""What the packages' demos share: inspect, then the study of the recipe in a smaller size."""

from __future__ import annotations

from pathlib import Path

from unlabeled.core.cli.inspect import report, show
from unlabeled.core.cli.shell import out, progress
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Recipe

# of a study: to end within minutes
QUICK = {"seeds": 1, "lr_grid": (1e-3,)}
ONE = "One pretraining seed and one rate of fine-tuning; the recipe's study has more seeds and may choose: see the package's README."


def inspect_and_study(recipe: Recipe, to: Path, real: str, split: str) -> None:
    """Show what the data hold, and the study's table and verdict; the study goes to `to`/study and goes on where it stopped.

    real  what the data are. split: what the study leaves out.
    """
    from unlabeled.core.report import study
    from unlabeled.core.studies import render

    out.rule("inspect: what is in the data")
    with progress("reading") as update:
        found = report(domain(recipe.domain), recipe.data, update)
    show(found)

    out.rule(f"study: {split}")
    with progress("study") as update:
        result = study(recipe, to / "study", update, real=real)
    out.print(real, markup=False)
    out.print(render(result))
    out.print(ONE, markup=False)
