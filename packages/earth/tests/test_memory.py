"""Memory does not grow with the number of scenes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .data.scenes import CORNER, north_up, raster

SIDE, FEW, MANY = 256, 10, 1000  # a scene holds 0.5 MB of values
CACHE = 4  # MB, which 10 scenes fill: what follows is what more scenes cost, and not what a cache does until it is full
RECIPE = """
domain: earth
data:
  path: {path}
  options: {{block: 5120, units: {{red: DN, green: DN, blue: DN, nir: DN}}}}
  window: [320, 320]
method: {{name: mae, decoder: {{width: 16, depth: 1, heads: 2}}}}
encoder: {{name: tokens, width: 16, depth: 1, heads: 2, patch: [8, 8]}}
batch_size: 16
max_steps: 120
"""


def scenes(folder: Path, count: int) -> Path:
    """`count` different scenes side by side, 20 in a row."""
    y, x = np.mgrid[:SIDE, :SIDE]
    for i in range(count):
        row, col = divmod(i, 20)
        values = np.stack([1000 + i + (y // 8 * band + x // 8) % 64 for band in range(1, 5)]).astype(np.uint16)
        at = north_up(CORNER[0] + col * SIDE * 10, CORNER[1] - row * SIDE * 10)
        raster(folder / f"{i:04}.tif", values, ("red", "green", "blue", "nir"), transform=at, compress="deflate")
    return folder


def peak(*words: object) -> float:
    """MB that a command of the package held at most."""
    call = [sys.executable, "-c", "from unlabeled.earth.cli import main; main()", *map(str, words)]
    env = {**os.environ, "GDAL_CACHEMAX": str(CACHE), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=env) as child:
        assert child.stderr is not None
        said = child.stderr.read().decode()
        _, status, used = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, said
    return used.ru_maxrss / 1024


@pytest.mark.slow
def test_memory_is_flat_from_ten_to_a_thousand_scenes(tmp_path: Path) -> None:
    found: dict[str, list[float]] = {"inspect": [], "pretrain": []}
    for count in (FEW, MANY):
        folder = scenes(tmp_path / str(count), count)
        (recipe := tmp_path / f"{count}.yaml").write_text(RECIPE.format(path=folder))
        options = ("-O", "block=5120", "-O", "units={red: DN, green: DN, blue: DN, nir: DN}")
        found["inspect"].append(peak("inspect", folder, *options))
        found["pretrain"].append(peak("pretrain", recipe, "-o", tmp_path / f"run-{count}"))
    for few, many in found.values():
        assert many <= 1.10 * few, found
