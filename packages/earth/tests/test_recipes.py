"""Recipes for scenes run as they are, for two steps: SAR-JEPA on its own sample, SimCLR on files like its scene's; and `init`."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
from rasterio.transform import from_origin

from unlabeled.core.cli.init import write
from unlabeled.core.contracts.recipe import Recipe, read_recipe
from unlabeled.core.pretraining import pretrain
from unlabeled.core.training.log import read
from unlabeled.earth import domain
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.sensors import SENSORS
from unlabeled.earth.synthetic import sar

from .data.scenes import raster, rng

QUICK = ("max_steps=2", "batch_size=4", "trainer.threads=1", "trainer.tensorboard=false", "trainer.log_every=1")


def recipe(name: str, folder: Path) -> Recipe:
    """The shipped recipe beside its sample in `folder`."""
    with as_file(files(domain.recipes) / name) as shipped:
        (folder / name).write_text(shipped.read_text())
    return read_recipe(folder / name, QUICK)


def losses(run: Path) -> list[float]:
    return [line["loss"] for line in read(run / "metrics.jsonl") if "loss" in line]


def test_sar_jepa(tmp_path: Path) -> None:
    sar(tmp_path / "sar", scenes=1)
    pretrain(recipe("sar-jepa.yaml", tmp_path), tmp_path / "run")
    found = losses(tmp_path / "run")
    # classes lie up to 17 dB apart, a ratio of 50: squared logarithms of ratios are below ln(50)^2 = 15.3 in both directions
    assert len(found) == 2 and all(0.05 < loss < 2 * 15.3 for loss in found)


def test_simclr_scene(tmp_path: Path) -> None:
    names, values = ("B1", "B2", "B3", "B4", "B5"), rng().integers(20, 200, (5, 200, 200)).astype(np.float32)
    where = from_origin(630_000, 230_000, 28.5, 28.5)
    raster(tmp_path / "landsat/scene/s.tif", values, names, crs="EPSG:32119", transform=where, nodata=-99999)
    pretrain(recipe("simclr-scene.yaml", tmp_path), tmp_path / "run")
    # 8 views, of which at most 7 are compared with each: about the logarithm of their number before anything is learned
    found = losses(tmp_path / "run")
    assert len(found) == 2 and all(0 < loss < np.log(7) + 1 for loss in found)


def test_init_explains_the_options_of_the_reader(tmp_path: Path) -> None:
    """The recipe says which sensors there are; the sample's own sensor, block and labels are not taken for the user's."""
    values = rng().integers(20, 200, (5, 200, 200)).astype(np.float32)
    where = from_origin(630_000, 230_000, 28.5, 28.5)
    raster(tmp_path / "own/s.tif", values, ("B1", "B2", "B3", "B4", "B5"), crs="EPSG:32119", transform=where)
    plain = write(domain, tmp_path / "own", tmp_path / "plain.yaml", "mae", {})
    assert ReaderOptions(**plain.data.options) == ReaderOptions()
    assert plain.study.labels is None and plain.study.folds is None and plain.study.task == "segment"
    made = write(domain, tmp_path / "own", tmp_path / "r.yaml", "simclr", {"sensor": "landsat7"})
    lines = (tmp_path / "r.yaml").read_text().splitlines()
    (sensor,) = [line for line in lines if line.startswith("    sensor: landsat7  # ")]
    assert all(name in sensor for name in SENSORS)
    for field in ReaderOptions.model_fields.values():
        assert sum(f"  # {field.description}" in line for line in lines) == 1
    found = read_recipe(tmp_path / "r.yaml")
    assert ReaderOptions(**found.data.options) == ReaderOptions(sensor="landsat7")
    assert found.data.model_copy(update={"options": made.data.options}) == made.data
