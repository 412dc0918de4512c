"""The verb `export`, the same in the core's command and in every domain's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
        sparsity: bool = typer.Option(
            False, "--sparsity", help="also say how far weights can be pruned by size before features change"
        ),
        on: Path | None = typer.Option(
            None, "--on", help="folder of files for --sparsity; none: a fixed input of noise", show_default=False
        ),
    ) -> None:
        """Write the encoder for timm, transformers, ONNX or torch, compared with the bundle before it is there."""
        from unlabeled.core.bundle.export import export as write

        if on is not None and not sparsity:
            raise RequestError("--on names files for --sparsity; say that too, or leave --on out")
        report = write(
            bundle, form, to, None if size is None else _cells(size), _inputs(bundle, on) if on else sparsity
        )
        for line in report["left_out"]:
            out.print(f"left out: {line}", markup=False)
        if "sparsity" in report:
            _show(report["sparsity"])
        out.print(f"{to}: differs from the bundle by {report['difference']:.1e}", markup=False)


def _inputs(bundle: Path, on: Path) -> Any:
    from unlabeled.core.bundle import load_bundle
    from unlabeled.core.evaluation.evaluate import opened
    from unlabeled.core.evaluation.look import some_inputs

    encoder = load_bundle(bundle)
    return some_inputs(encoder, opened(encoder, on))


def _show(found: Mapping[str, Any]) -> None:
    from rich.box import SIMPLE
    from rich.table import Table

    table = Table("weights at 0", "cosine", "error", "rank", box=SIMPLE, padding=(0, 1, 0, 0))
    for p in found["curve"]:
        table.add_row(f"{p['share']:.0%}", f"{p['cosine']:.4f}", f"{p['error']:.4f}", f"{p['rank']:.1f}")
    out.print(table)
    knee = "no share" if found["knee"] is None else f"{found['knee']:.0%}"
    out.print(
        f"of {found['weights']} weights {knee} can be 0 with a cosine of {found['limit']:g} or more, on {found['items']} items "
        f"({found['on']})",
        markup=False,
    )


def _cells(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise RequestError(f"--size {text!r} is no list of whole numbers; give it as 224,224") from None
