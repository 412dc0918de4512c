"""The demo from end to end on the real scene, as small as it runs, and that it goes on where it stopped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from unlabeled.core.contracts.recipe import Recipe, validated
from unlabeled.earth import demo as module
from unlabeled.earth.label_rasters import Raster

SMALL = {
    "max_steps": 2,
    "batch_size": 4,
    "encoder": {"name": "tokens", "width": 16, "depth": 1, "heads": 2, "patch": [4, 4]},
    "method": {"name": "mae", "decoder": {"width": 16, "depth": 1, "heads": 2}},
}
QUICK = {"every": 12, "budgets": [4], "seeds": 1, "draws": 1, "lr_grid": [1e-3], "finetune_steps": 1, "jobs": 1}


def _small(recipe: Recipe) -> Recipe:
    values = recipe.model_dump(mode="json")
    return validated(Recipe, {**values, **SMALL, "study": {**values["study"], **QUICK}}, "the small demo")


@pytest.mark.data
@pytest.mark.slow
def test_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    whole = module._recipe
    monkeypatch.setattr(module, "_recipe", lambda folder: _small(whole(folder)))
    module.demo(tmp_path / "demo")
    text = capsys.readouterr().out
    for said in (module.REAL, "windows+logreg", "mosaiks+ridge", "ours + windows", "against the best simple baseline"):
        assert said in text
    scene, mapped = (
        rasterio.open(tmp_path / "demo" / p) for p in ("landsat/scene/lsat7_2000.tif", "map/maps/lsat7_2000.tif")
    )
    with scene, mapped:
        assert (mapped.crs, mapped.transform, mapped.shape) == (scene.crs, scene.transform, scene.shape)
        seen = scene.read_masks(1) > 0
        np.testing.assert_array_equal(mapped.read_masks(1) > 0, seen)
        names = Raster(Path(mapped.name)).names
        assert sorted(names.values()) == ["developed", "forest", "herbaceous", "shrubland"]
        assert set(np.unique(mapped.read(1)[seen])) <= set(names)
    costly = [
        p for part in ("landsat", "study/jobs", "study/pretraining", "model", "map") for p in made(tmp_path, part)
    ]
    before = {p: p.stat().st_mtime_ns for p in costly}
    module.demo(tmp_path / "demo")
    assert len(costly) > 20 and {p: p.stat().st_mtime_ns for p in costly} == before


def made(folder: Path, part: str) -> list[Path]:
    return [p for p in (folder / "demo" / part).rglob("*") if p.is_file()]
