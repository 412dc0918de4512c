"""A domain of images with texts: GROUP/NAME.npy holds (1, H, W), NAME.txt beside it what it shows. Installed for a test."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from unlabeled.core.contracts import Domain, Input, Sample
from unlabeled.core.contracts.recipe import Strict
from unlabeled.core.data.texts import text_input


class Options(Strict):
    inputs: tuple[str, ...] = ("image", "text")


class Reader:
    def __init__(self, options: Options, root: Path) -> None:
        self.options = options

    def files(self, root: Path) -> list[Path]:
        return sorted(root.glob("*/*.npy"))

    def read(self, path: Path) -> list[Sample]:
        text = path.with_suffix(".txt")
        image = Input(np.load(path), ("grey",), ("",), unit="px", spacing=(1.0, 1.0))
        found = {"image": image, "text": text_input(text.read_text() if text.exists() else "")}
        inputs = {name: found[name] for name in self.options.inputs}
        return [Sample(inputs, key=f"{path.parent.name}/{path.stem}", group=path.parent.name)]


domain = Domain(
    name="pairs",
    title="Pairs",
    summary="images and texts",
    reader=f"{__name__}:Reader",
    options=f"{__name__}:Options",
    axes=("height", "width"),
)
