"""The verb `atoms`: images by formula, for when there are no data yet."""

from __future__ import annotations

from pathlib import Path

import typer

from unlabeled.core.cli.shell import out, progress


def add_to(app: typer.Typer) -> None:
    """Give `app` the verb."""

    @app.command()
    def atoms(
        to: Path = typer.Option(..., "-o", help="folder to write", show_default=False),
        classes: int = typer.Option(10, "--classes", min=1, help="folders, each of one formula"),
        per_class: int = typer.Option(20, "--per-class", min=1, help="images of each"),
        size: int = typer.Option(64, "--size", min=8, help="cells along a side"),
        seed: int = typer.Option(0, "--seed", help="another seed gives other formulas and images"),
    ) -> None:
        """Write images of sine waves on circles, in classes: data that need no data (VisualAtom)."""
        from unlabeled.core.curate.visual_atoms import write

        with progress("images") as update:
            count = write(to, classes, per_class, size, seed, update)
        out.print(f"{to}: {count} images in {classes} classes, and labels.csv", markup=False)
