"""A domain of .npy images: GROUP/NAME.npy holds (H, W) of cells of 0.5 m. Installed for a test by `conftest.field`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from unlabeled.core.contracts import BadInput, Domain, Head, Input, Sample
from unlabeled.core.contracts.recipe import Strict


class Options(Strict):
    pass


class Reader:
    def __init__(self, options: Options, root: Path) -> None:
        self.options, self.root = options, root

    def files(self, root: Path) -> list[Path]:
        return sorted(root.glob("*/*.npy"))

    def read(self, path: Path) -> list[Sample]:
        try:
            values = np.load(path, allow_pickle=False)
        except ValueError:
            raise BadInput(f"{path.name} is no array; write it again") from None
        x = Input(values[None], ("height",), ("m",), unit="m", spacing=(0.5, 0.5), valid=~np.isnan(values)[None])
        return [
            Sample(
                {"x": x.with_(data=np.nan_to_num(x.data))},
                key=f"{path.parent.name}/{path.stem}",
                group=path.parent.name,
            )
        ]


def jitter(x: Any, draw: Any, spec: Any, amount: float = 0.1) -> Any:
    from dataclasses import replace

    return replace(x, values=x.values + amount * draw.normal("jitter", *x.values.shape[1:]))


def count(model: Any, predictions: Any, out: Path) -> None:
    (out / "count.txt").write_text(str(len(predictions.records)))


domain = Domain(
    name="field",
    title="Field",
    summary="images",
    reader=f"{__name__}:Reader",
    options=f"{__name__}:Options",
    axes=("height", "width"),
    views={"jitter": f"{__name__}:jitter"},
    heads=(Head("segment", "segmentation", "miou", "hills and valleys"),),
    writers={"count": f"{__name__}:count"},
)
