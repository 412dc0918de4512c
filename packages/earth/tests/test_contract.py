"""Earth keeps the contract of every domain."""

from pathlib import Path
from typing import Any

import numpy as np

from unlabeled.core.testing.contract import DomainContract

from .data.scenes import north_up, raster


class TestEarth(DomainContract):
    name = "earth"
    suffix = ".tif"
    recipe: dict[str, Any] = {
        "method": {"name": "mae", "mask_ratio": 0.5, "decoder": {"width": 16, "depth": 1, "heads": 2}},
        "encoder": {"name": "tokens", "width": 16, "depth": 1, "heads": 2, "patch": [4, 4]},
        "views": [{"name": "flip"}],
    }
    data: dict[str, Any] = {"window": [160.0, 160.0]}
    formats = ("parquet", "csv", "geoparquet", "gpkg", "geojson")  # the others are maps

    def write(self, folder: Path) -> Path:
        """Six chips of three blocks of ground, 18 to 23 cells of 10 m wide, a cell of each nodata."""
        for i in range(6):
            values = np.random.default_rng(i).integers(200, 2000, (3, 18 + i, 18 + i)).astype(np.int16)
            values[:, 0, 0] = -1
            where = north_up(500_000 + 12_000 * (i % 3) + 300 * (i // 3))
            raster(folder / f"c{i}.tif", values, transform=where, nodata=-1)
        return folder
