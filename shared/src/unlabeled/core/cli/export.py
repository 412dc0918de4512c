"""The verb `export`, the same in the core's command and in every domain's."""

from __future__ import annotations

from pathlib import Path

import typer

from unlabeled.core.cli.shell import out
from unlabeled.core.contracts import RequestError


def add_to(app: typer.Typer) -> None:
    """Give `app` the verb."""

    @app.command()
    def export(
        bundle: Path = typer.Argument(..., help="folder that `pretrain` wrote (RUN/bundle)", show_default=False),
        form: str = typer.Option(
            ..., "--to", help="timm, hf, onnx, torch or a format of the domain", show_default=False
        ),
        to: Path = typer.Option(..., "-o", help="folder to write", show_default=False),
        size: str | None = typer.Option(
            None, "--size", help="timm: cells of an image, as 224,224; none: the window it was trained on"
        ),
    ) -> None:
        """Write the encoder for timm, transformers, ONNX or torch, compared with the bundle before it is there."""
        from unlabeled.core.bundle.export import export as write

        report = write(bundle, form, to, None if size is None else _cells(size))
        for line in report["left_out"]:
            out.print(f"left out: {line}", markup=False)
        out.print(f"{to}: differs from the bundle by {report['difference']:.1e}", markup=False)


def _cells(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise RequestError(f"--size {text!r} is no list of whole numbers; give it as 224,224") from None
