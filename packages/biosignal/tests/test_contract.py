"""Biosignal keeps the contract of every domain."""

from pathlib import Path
from typing import Any

import numpy as np

from unlabeled.core.testing.contract import DomainContract


class TestBiosignal(DomainContract):
    name = "biosignal"
    suffix = ".csv"
    recipe: dict[str, Any] = {
        "method": {"name": "mae", "mask_ratio": 0.5, "decoder": {"width": 16, "depth": 1, "heads": 2}},
        "encoder": {"name": "tokens", "width": 16, "depth": 1, "heads": 2, "patch": [10]},
        "views": [{"name": "crop", "seconds": 2.0}],
    }
    data: dict[str, Any] = {"window": [3.0]}

    def write(self, folder: Path) -> Path:
        """Six recordings of three people, 7 to 9 s at 50 Hz."""
        folder.mkdir(parents=True)
        rng = np.random.default_rng(0)
        about = ["file,subject"]
        for i in range(6):
            values = rng.normal(0, 0.1, (350 + 20 * i, 3)) + np.array([0, 0, 1])
            rows = [f"{t / 50:.2f},{x:.4f},{y:.4f},{z:.4f}" for t, (x, y, z) in enumerate(values)]
            (folder / f"r{i}.csv").write_text("\n".join(["time,acc_x [g],acc_y [g],acc_z [g]", *rows]) + "\n")
            about += [f"r{i}.csv,person{i % 3}", f"r{i}-bad.csv,person{i % 3}"]
        (folder / "recordings.csv").write_text("\n".join(about) + "\n")
        return folder
