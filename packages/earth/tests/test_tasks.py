"""Chips with labels: the tasks that give each chip one class, any number of labels (as BigEarthNet does), or a value."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from unlabeled.core import finetune, load_model, predict

from .data import land

CHIPS, SIDE = 12, 16
QUICK: dict[str, Any] = {"steps": 3, "looks": 1, "batch_size": 8, "accelerator": "cpu", "window": [160, 160]}


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Twelve chips of 160 m, 2.4 km apart, so that each lies in a block of its own; labels of them; a recipe."""
    root = tmp_path_factory.mktemp("chips")
    lines: dict[str, list[str]] = {"classify": ["key,label"], "tag": ["key,labels"], "regress": ["key,value [m]"]}
    for i in range(CHIPS):
        west, north = land.ORIGIN
        ground = land.height(i, (SIDE, SIDE))
        bands = np.stack([ground, land.height(100 + i, (SIDE, SIDE))])
        land.write(
            root / "data" / f"c{i}.tif", bands, land.transform((west + 2400 * i, north)), names=("height", "noise")
        )
        tags = [name for name, has in (("forest", i % 2), ("water", i % 3 == 0)) if has]
        lines["classify"].append(f"c{i},{'forest' if i % 2 else 'water'}")
        lines["tag"].append(f"c{i},{';'.join(tags)}")
        lines["regress"].append(f"c{i},{ground.mean():.4f}")
    for name, rows in lines.items():
        (root / f"{name}.csv").write_text("\n".join(rows) + "\n")
    (root / "recipe.yaml").write_text(land.RECIPE.format(data=root / "data"))
    (root / "key").write_text("0123456789abcdef" * 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNLABELED_KEY", str(root / "key"))
        yield root


@pytest.mark.parametrize(
    ("task", "classes", "metrics"),
    [
        ("classify", ("forest", "water"), {"macro_f1"}),
        ("tag", ("forest", "water"), {"macro_map", "micro_map", "macro_f1", "micro_f1"}),
        ("regress", (), {"mae", "r2"}),
    ],
)
def test_chips_are_learned_from_and_predicted(
    chips: Path, task: str, classes: tuple[str, ...], metrics: set[str], tmp_path: Path
) -> None:
    data = chips / "data"
    out = finetune(chips / "recipe.yaml", data, chips / f"{task}.csv", task, tmp_path / "model", **QUICK)
    about = load_model(out).about
    assert about.classes == classes and set(about.score) == metrics
    # a quarter of the twelve blocks is left out to choose the step
    assert (about.n["train_records"], about.n["validation_records"]) == (9, 3)
    found = predict(out, data, tmp_path / "out")
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pylist()
    assert sorted(row["key"] for row in rows) == sorted(f"c{i}" for i in range(CHIPS))
    assert len({row["group"] for row in rows}) == CHIPS
    assert all(record.extent == (160.0, 160.0) for record in found.records)
    for row in rows:
        p = [row[f"probability {name}"] for name in classes]
        if task == "classify":
            assert sum(p) == pytest.approx(1) and row["prediction"] == classes[int(np.argmax(p))]
        elif task == "tag":
            assert row["labels"] == ";".join(n for n, x in zip(classes, p, strict=True) if x > 0.5)
        else:
            assert np.isfinite(row["value"])
