"""Two processes train one run: started by torchrun's variables and by Lightning's own launcher, they equal one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

pytestmark = pytest.mark.slow

RECIPE: dict[str, Any] = {
    "domain": "biosignal",
    "method": {"name": "simclr", "projector": [16, 8]},
    "encoder": {"name": "convnet", "channels": [8, 8], "kernels": [5, 3], "strides": [2, 2]},
    "views": [{"name": "crop", "seconds": 1.0}],
    "trainer": {"threads": 1, "save_every": 3, "tensorboard": False, "accelerator": "cpu", "log_every": 1},
    "batch_size": 6,
    "max_steps": 6,
}


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(0)
    about = ["file,subject"]
    for i in range(7):
        np.savez(folder / f"r{i}.npz", data=rng.normal(size=(200, 2)), channels=["a", "b"], units=["V", "V"], rate=50.0)
        about.append(f"r{i}.npz,p{i % 3}")
    (folder / "recordings.csv").write_text("\n".join(about) + "\n")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "data": {"path": str(folder), "window": [2.0]}}))
    return path


def command(recipe: Path, run: Path, *overrides: str) -> list[str]:
    return [
        str(Path(sys.executable).with_name("unlabeled-biosignal")),
        "pretrain",
        str(recipe),
        *overrides,
        "-o",
        str(run),
    ]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    subprocess.run(command(recipe, run, "trainer.loop=plain"), check=True, timeout=240, capture_output=True)
    return run


def test_torchrun(recipe: Path, alone: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    running = [
        subprocess.Popen(
            command(recipe, tmp_path / "run", "trainer.loop=plain"),
            env={**os.environ, **together, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in running:
        _, text = process.communicate(timeout=240)
        assert process.returncode == 0, text
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=1e-5)


def test_lightning_launches_its_ranks(recipe: Path, alone: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        command(recipe, tmp_path / "run", "trainer.devices=2"), timeout=240, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone), rtol=1e-5)
    about = json.loads((tmp_path / "run" / "bundle" / "bundle.json").read_text())
    np.testing.assert_allclose(
        about["fingerprint"], json.loads((alone / "bundle" / "bundle.json").read_text())["fingerprint"], atol=1e-4
    )
