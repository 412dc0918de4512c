"""A domain of images, with labels of every kind that the data do tell, and a bundle pretrained on two of its groups."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from unlabeled.core import streams

GROUPS, PER_GROUP, SIDE = 6, 4, 24


@dataclass(frozen=True)
class Field:
    """data: the images; labels: classes (hilly or flat), values (mean height), masks (above 0 or not), tags."""

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    def labels(self, kind: str) -> Path:
        return self.root / f"{kind}.csv"

    @property
    def recipe(self) -> Path:
        return self.root / "recipe.yaml"


def tags(image: NDArray[np.floating], i: int) -> dict[str, bool]:
    return {"hilly": bool(i % 2), "high": bool(image.mean() > 0), "rare": i == 3}


@pytest.fixture(scope="session")
def field(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Field]:
    root = tmp_path_factory.mktemp("field")
    site = root / "site"
    about = site / "field_domain-0.dist-info"
    about.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("field_domain.py"), site)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: field-domain\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[unlabeled.domains]\nfield = field_domain:domain\n")
    (root / "key").write_text("0123456789abcdef" * 4)
    (root / "masks").mkdir()
    lines: dict[str, list[str]] = {"classes": ["key,label"], "values": ["key,value [m]"], "masks": ["key,file"]}
    lines["tags"] = ["key,labels"]
    for g in range(GROUPS):
        (root / "data" / f"s{g}").mkdir(parents=True)
        for i in range(PER_GROUP):
            noise = streams.rng(0, "field", g, i).standard_normal((SIDE, SIDE))
            height = 2.0 if i % 2 else 0.5
            image = (gaussian_filter(noise, 3) * 6 * height).astype(np.float32)
            np.save(root / "data" / f"s{g}" / f"r{i}.npy", image)
            np.save(root / "masks" / f"s{g}r{i}.npy", np.where(image > 0, 3, 1))
            lines["classes"].append(f"s{g}/r{i},{'hilly' if i % 2 else 'flat'}")
            lines["values"].append(f"s{g}/r{i},{image.mean():.6f}")
            lines["tags"].append(f"s{g}/r{i},{';'.join(n for n, has in tags(image, i).items() if has)}")
            lines["masks"].append(f"s{g}/r{i},masks/s{g}r{i}.npy")
    for name, rows in lines.items():
        (root / f"{name}.csv").write_text("\n".join(rows) + "\n")
    (root / "recipe.yaml").write_text(
        """
domain: field
data: {path: data, normaliser: standard, window: [8.0, 8.0], stride: [4.0, 4.0]}
method: {name: mae, mask_ratio: 0.5}
encoder: {name: tokens, width: 16, depth: 2, heads: 2, patch: [4, 4]}
trainer: {loop: plain, accelerator: cpu, tensorboard: false, threads: 1}
batch_size: 16
max_steps: 3
"""
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("UNLABELED_KEY", str(root / "key"))
        yield Field(root)


@pytest.fixture(scope="session")
def bundle(field: Field) -> Path:
    """Pretrained on the groups s0 and s1."""
    from unlabeled.core.contracts.recipe import read_recipe
    from unlabeled.core.data.groups import hashed, project_key
    from unlabeled.core.pretraining import pretrain

    recipe = read_recipe(field.recipe)
    groups = tuple(hashed(name, project_key()) for name in ("s0", "s1"))
    data = recipe.data.model_copy(update={"groups": groups})
    return pretrain(recipe.model_copy(update={"data": data}), field.root / "run")
