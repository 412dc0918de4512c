"""A toy domain installed for the time of a module, and data for it. No label is told by the data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from unlabeled.core import streams
from unlabeled.core.contracts.recipe import Recipe, validated

GROUPS, PER_GROUP = 6, 4


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `data` and `labels.csv`; the processes of a study see the same domain and the same project key."""
    root = tmp_path_factory.mktemp("toy")
    site = root / "site"
    about = site / "toy_domain-0.dist-info"
    about.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("toy_domain.py"), site)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-domain\nVersion: 0\n")
    (about / "entry_points.txt").write_text("[unlabeled.domains]\ntoy = toy_domain:domain\n")
    (root / "key").write_text("0123456789abcdef" * 4)
    lines = ["key,label"]
    for g in range(GROUPS):
        (root / "data" / f"s{g}").mkdir(parents=True)
        for i in range(PER_GROUP):
            x = streams.rng(0, "toy", g, i).standard_normal((2, 64)).astype(np.float32)
            np.save(root / "data" / f"s{g}" / f"r{i}.npy", x)
            lines.append(f"s{g}/r{i},{'up' if i % 2 else 'down'}")
    # the last record of the last group is unlabelled
    (root / "labels.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("UNLABELED_KEY", str(root / "key"))
        yield root


@pytest.fixture(scope="module")
def recipe(toy: Path) -> Recipe:
    values = {
        "domain": "toy",
        "data": {"path": toy / "data", "normaliser": "standard", "window": [1.6]},
        "method": {"name": "simclr", "projector": [8, 4]},
        "encoder": {"name": "convnet", "channels": [4, 6], "kernels": [3, 3], "strides": [2, 1]},
        "views": [{"name": "jitter"}],
        "trainer": {"loop": "plain", "accelerator": "cpu", "tensorboard": False},
        "batch_size": 16,
        "max_steps": 4,
        "study": {
            "labels": toy / "labels.csv",
            "budgets": [1, 0.5, 1.0],
            "groups_per_fold": 2,
            "seeds": 2,
            "draws": 2,
            "lr_grid": [1e-3, 1e-2],
            "finetune_steps": 3,
        },
    }
    return validated(Recipe, values, "the toy recipe")
