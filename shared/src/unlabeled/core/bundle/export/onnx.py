"""ONNX, for runtimes without Python."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from unlabeled.core.bundle.export.torch import masks, program
from unlabeled.core.bundle.export.whole import Whole, Written

FILE = "encoder.onnx"


def write(whole: Whole, folder: Path, size: tuple[int, ...] | None) -> Written:
    names = ["values", "spacing"] if whole.asks_spacing else ["values"]
    with contextlib.redirect_stdout(io.StringIO()):  # it reports its progress with print
        made = torch.onnx.export(program(whole), input_names=names, output_names=["pooled", "tokens"], verbose=False)
        assert made is not None
        made.save(folder / FILE)

    def answer(given: Mapping[str, Tensor]) -> Tensor:
        import onnxruntime

        session = onnxruntime.InferenceSession(folder / FILE, providers=["CPUExecutionProvider"])
        pooled = session.run(["pooled"], {name: x.numpy() for name, x in given.items()})[0]
        return torch.from_numpy(pooled)

    fed = ", ".join(f"'{n}': {n}" for n in names)
    return Written(
        answer,
        use=(
            "import onnxruntime\n\n"
            f"session = onnxruntime.InferenceSession('{FILE}')\n"
            f"pooled, tokens = session.run(['pooled', 'tokens'], {{{fed}}})  # float32 arrays"
        ),
        left_out=(masks(whole),),
    )
