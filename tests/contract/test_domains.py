"""Four toy domains pass the contract without a change in the core, and one method comes in from outside."""

from pathlib import Path
from typing import Any

from unlabeled.core.testing.contract import DomainContract

TOKENS = {"name": "tokens", "width": 16, "depth": 1, "heads": 2}


class Toy(DomainContract):
    suffix = ".npz"

    def write(self, folder: Path) -> Path:
        from toydomains.read import write

        return write(self.name, folder)


class TestVariableLengthSignals(Toy):
    name = "waves"
    recipe: dict[str, Any] = {
        "method": {"name": "simclr", "projector": (16, 8)},
        "encoder": {"name": "convnet", "channels": (8, 8), "kernels": (5, 3), "strides": (2, 1)},
        "views": [{"name": "noise", "amount": 0.2}],
    }


class TestAnisotropicVolumes(Toy):
    name = "blocks"
    recipe: dict[str, Any] = {
        "method": {"name": "mae", "mask_ratio": 0.6},
        "encoder": {**TOKENS, "patch": (2, 4, 4)},
    }


class TestTwoInputs(Toy):
    name = "pairs"
    recipe: dict[str, Any] = {"method": {"name": "mae", "mask_ratio": 0.5, "norm_target": False}, "encoder": TOKENS}


class TestGraphsWithAMethodFromOutside(Toy):
    name = "rings"
    recipe: dict[str, Any] = {"method": {"name": "denoise", "sigma": 0.3}, "encoder": {"name": "neighbours"}}
