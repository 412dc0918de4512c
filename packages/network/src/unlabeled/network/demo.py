"""The demo: captures of real servers, from files to a verdict, and whether shortcuts could have had the score."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from unlabeled.core.cli.demo import QUICK, inspect_and_study
from unlabeled.core.cli.shell import out, progress
from unlabeled.core.contracts.recipe import Recipe, read_recipe
from unlabeled.network.leaks.leakcheck import show
from unlabeled.network.leaks.probes import check
from unlabeled.network.samples import services

REAL = "real servers and clients in a laboratory: 130 captures of 13 services (tools/captures)"
# smaller than the recipe, to end within minutes
SMALL = {"budgets": (1, 1.0), "finetune_steps": 10, "finetune_batch": 32, **QUICK}
STEPS, BATCH = 40, 32


def demo(to: Path) -> None:
    """Inspect, pretrain and study on the captures of services, into the folder `to`; goes on where it stopped."""
    folder = services(to / "services")
    recipe = _recipe(folder)
    split = "pretrain without labels on the captures that stay, test on those left out, of every service as many"
    inspect_and_study(recipe, to, REAL, split)

    out.rule("leakcheck: could the score have been had without looking at the traffic?")
    with progress("probes") as update:
        found = check(folder, folder / "labels.csv", recipe.data.options, seeds=1, progress=update)
    show(found)

    out.rule("where everything lies")
    for what, path in (
        ("captures and labels", folder),
        ("the report, for a browser", to / "study" / "report.html"),
        ("every number of the table", to / "study" / "study.json"),
        ("pretraining runs, each with its bundle", to / "study" / "pretraining"),
    ):
        out.print(f"{what}: {path}", markup=False)


def _recipe(folder: Path) -> Recipe:
    with as_file(files("unlabeled.network") / "recipes" / "two-views-services.yaml") as path:
        recipe = read_recipe(path)
    study = recipe.study.model_copy(update={"labels": folder / "labels.csv", "folds": folder / "folds.csv", **SMALL})
    data = recipe.data.model_copy(update={"path": folder})
    return recipe.model_copy(update={"data": data, "study": study, "max_steps": STEPS, "batch_size": BATCH})
