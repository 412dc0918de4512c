"""torch.export: a program with its weights that needs nothing but torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from unlabeled.core.bundle.export.whole import Whole, Written

FILE = "encoder.pt2"


def program(whole: Whole) -> ExportedProgram:
    """The encoder traced for any batch and any grid that is a multiple of its patch or stride."""
    rows = Dim("batch", min=1)
    grid = {2 + i: step * Dim(f"grid{i}", min=1) for i, step in enumerate(whole.steps)}
    values = torch.zeros(2, whole.encoder.input_spec.width, *whole.shape)
    given: tuple[Tensor, ...] = (values,)
    shapes: tuple[dict[int, Any], ...] = ({0: rows, **grid},)
    if whole.asks_spacing:
        given, shapes = (values, torch.ones(2, whole.rank)), (*shapes, {0: rows})
    with torch.no_grad():
        made = torch.export.export(whole, given, dynamic_shapes=shapes)
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names the folders of this machine
    return made


def write(whole: Whole, folder: Path, size: tuple[int, ...] | None) -> Written:
    torch.export.save(program(whole), folder / FILE)

    def answer(given: Mapping[str, Tensor]) -> Tensor:
        with torch.no_grad():
            pooled: Tensor = torch.export.load(folder / FILE).module()(*given.values())[0]
        return pooled

    asked = ", spacing" if whole.asks_spacing else ""
    return Written(
        answer,
        use=f"import torch\n\nencoder = torch.export.load('{FILE}').module()\npooled, tokens = encoder(values{asked})",
        left_out=(masks(whole),),
    )


def masks(whole: Whole) -> str:
    sizes = " x ".join(map(str, whole.steps))
    return f"masks: every value counts as valid, and each grid is a multiple of {sizes} cells"
