"""Toy domains installed for the time of a module, and data for them.

Of `toy`, no label is told by the data; of `ground`, the labels of cells are.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from unlabeled.core import streams
from unlabeled.core.contracts.recipe import Recipe, validated

GROUPS, PER_GROUP = 6, 4


def install(name: str, root: Path, patch: pytest.MonkeyPatch) -> None:
    """The domain of `toy_NAME.py`, seen by this process and those it starts, which share a project key."""
    site = root / "site"
    about = site / f"{name}-0.dist-info"
    about.mkdir(parents=True)
    shutil.copy(Path(__file__).with_name(f"{name}.py"), site)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0\n")
    domain = name.removeprefix("toy_").replace("domain", "toy")
    (about / "entry_points.txt").write_text(f"[unlabeled.domains]\n{domain} = {name}:domain\n")
    (root / "key").write_text("0123456789abcdef" * 4)
    patch.syspath_prepend(str(site))
    patch.setenv("UNLABELED_KEY", str(root / "key"))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `data` and `labels.csv`."""
    root = tmp_path_factory.mktemp("toy")
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
        install("toy_domain", root, patch)
        yield root


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with `data`, `labels.csv`, masks beside it and `folds.csv`: 16 x 16 cells, in squares of 4 x 4 of one class.

    Groups w0 (of two records), w1 and w2 are west, e0, e1 and e2 east, gap is in no fold, and bare has no labels and is
    west. Each class has its own mean in the two channels. Class 7 is in one cell of w0/r0.
    """
    root = tmp_path_factory.mktemp("ground")
    means = np.array([[2, 0], [0, 2], [-2, -2]])
    labels, folds = ["key,file"], ["key,fold"]
    for key in ("w0/r0", "w0/r1", "w1/r0", "w2/r0", "e0/r0", "e1/r0", "e2/r0", "gap/r0", "bare/r0"):
        draw = streams.rng(0, "ground", key)
        mask = np.kron(draw.integers(0, 3, (4, 4)), np.ones((4, 4), np.int64))
        x = means[mask].transpose(2, 0, 1) + 0.5 * draw.standard_normal((2, 16, 16))
        if key == "w0/r0":
            x[:, 9:, :4] = np.nan  # nothing was measured
            mask[3:6, 2:9] = -1  # nobody looked
            mask[0, 0] = 7
        file = root / "data" / f"{key}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, x.astype(np.float32))
        if key != "bare/r0":
            np.save(root / f"{key.replace('/', '-')}.npy", mask.astype(np.int16))
            labels.append(f"{key},{key.replace('/', '-')}.npy")
        folds.append(f"{key},{ {'w': 'west', 'b': 'west', 'e': 'east'}.get(key[0], '') }")
    (root / "labels.csv").write_text("\n".join(labels) + "\n")
    (root / "folds.csv").write_text("\n".join(folds) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        install("toy_ground", root, patch)
        yield root


@pytest.fixture(scope="module")
def ground_recipe(ground: Path) -> Recipe:
    values = {
        "domain": "ground",
        "data": {"path": ground / "data", "normaliser": "standard", "window": [80, 80], "stride": [40, 40]},
        "method": {"name": "simmim"},
        "encoder": {"name": "tokens", "width": 16, "depth": 1, "heads": 2, "patch": [2, 2]},
        "trainer": {"loop": "plain", "accelerator": "cpu", "tensorboard": False},
        "batch_size": 16,
        "max_steps": 4,
        "study": {
            "task": "segment",
            "labels": ground / "labels.csv",
            "folds": ground / "folds.csv",
            "every": 2,
            "budgets": [3, 1.0],
            "groups_per_fold": 1,
            "seeds": 1,
            "draws": 2,
            "lr_grid": [1e-2],
            "finetune_steps": 30,
            "finetune_batch": 24,
        },
    }
    return validated(Recipe, values, "the recipe of the toy ground")


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
