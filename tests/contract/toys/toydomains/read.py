"""Readers of the toys: NumPy archives, one record each; `write_*` makes the tiny real files."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from unlabeled.core.contracts import BadInput, Input, Sample


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Archive:
    def __init__(self, options: Options, root: Path) -> None:
        self.options = options

    def files(self, root: Path) -> list[Path]:
        return sorted(root.rglob("*.npz"))

    def read(self, path: Path) -> list[Sample]:
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
            inputs = self.inputs(arrays)
        except (OSError, ValueError, KeyError) as error:
            raise BadInput(f"{path.name} is no archive of this toy ({type(error).__name__}); write it again") from None
        return [Sample(inputs=inputs, key=path.stem, group=str(arrays["group"]))]

    def inputs(self, arrays: dict[str, np.ndarray]) -> dict[str, Input]:
        raise NotImplementedError


class Waves(Archive):
    """(2, T) at 50 Hz, T differs from record to record; a gap is invalid."""

    def inputs(self, arrays: dict[str, np.ndarray]) -> dict[str, Input]:
        return {
            "x": Input(
                arrays["data"], ("a", "b"), ("V", "V"), unit="s", spacing=(0.02,), valid=arrays["valid"], source="s"
            )
        }


class Blocks(Archive):
    """(1, 6, 12, 12) with cells of 5 x 1 x 1 mm."""

    def inputs(self, arrays: dict[str, np.ndarray]) -> dict[str, Input]:
        return {"x": Input(arrays["data"], ("ct",), ("HU",), unit="mm", spacing=(5.0, 1.0, 1.0), source="s")}


class Pairs(Archive):
    """A sequence of 3 features and one of 5, of different lengths, each token at its time."""

    def inputs(self, arrays: dict[str, np.ndarray]) -> dict[str, Input]:
        return {
            name: Input(
                arrays[name],
                tuple(f"{name}{i}" for i in range(width)),
                ("",) * width,
                layout="packed",
                unit="s",
                coords=arrays[f"{name}_time"],
                source="s",
            )
            for name, width in (("x", 3), ("y", 5))
        }


class Rings(Archive):
    """Rings of 5 to 9 nodes with 4 features."""

    def inputs(self, arrays: dict[str, np.ndarray]) -> dict[str, Input]:
        return {"x": Input(arrays["data"], tuple("pqrs"), ("",) * 4, layout="graph", edges=arrays["edges"], source="s")}


def write(name: str, folder: Path, records: int = 12) -> Path:
    """Tiny real files for the toy `name`: four groups, seeded."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(records):
        np.savez(folder / f"r{i:02d}.npz", group=f"g{i % 4}", **_arrays(name, rng))
    return folder


def _arrays(name: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    if name == "waves":
        data = rng.normal(size=(2, int(rng.integers(40, 90)))).astype(np.float32)
        valid = np.ones((1, data.shape[1]), bool)
        valid[0, 10:14] = False
        return {"data": data, "valid": valid}
    if name == "blocks":
        return {"data": rng.normal(100, 50, size=(1, 6, 12, 12)).astype(np.float32)}
    if name == "pairs":
        n, m = int(rng.integers(5, 9)), int(rng.integers(3, 7))
        times = {"x_time": np.sort(rng.random((n, 1)), 0), "y_time": np.sort(rng.random((m, 1)), 0)}
        return {"x": rng.normal(size=(n, 3)), "y": rng.normal(size=(m, 5)), **times}
    n = int(rng.integers(5, 10))
    ring = np.stack([np.arange(n), (np.arange(n) + 1) % n])
    return {"data": rng.normal(size=(n, 4)), "edges": np.concatenate([ring, ring[::-1]], 1)}
