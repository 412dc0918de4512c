"""Bundles with random weights, made without training, and the domain they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from unlabeled.core.build import make_encoder
from unlabeled.core.bundle import save_bundle
from unlabeled.core.contracts import Domain, InputSpec
from unlabeled.core.contracts.recipe import Data, Named, Recipe
from unlabeled.core.nn.base import Encoder

M = TypeVar("M", bound=nn.Module)

AXES = ("depth", "height", "width")
PLAIN = Domain(name="plain", title="Plain", summary="arrays", reader="", options="", axes=AXES)


def install(site: Path) -> None:
    """Write the domain `plain` as a distribution, for a folder that is on the path."""
    about = site / "plain_domain-0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-domain\nVersion: 0\n")
    (about / "entry_points.txt").write_text(f"[unlabeled.domains]\nplain = {__name__}:PLAIN\n")


def spec(rank: int, channels: tuple[str, ...] = ("u", "v"), **changes: Any) -> InputSpec:
    """The contract of a dense input with steps of half a millimetre."""
    given = {"spacing": (0.5,) * rank, "unit": "mm", "units": ("",) * len(channels), "axes": AXES[-rank:], **changes}
    return InputSpec(channels=channels, **given)


def make_bundle(
    path: Path, encoder: Encoder, window: tuple[float, ...] | None = None, start: dict[str, str] | None = None
) -> Path:
    """A bundle of this encoder, as if it came from a run on three records of two groups."""
    assert encoder.named is not None
    recipe = Recipe(
        domain="plain",
        data=Data(path=Path("nowhere"), window=window),
        method=Named(name="simclr"),
        encoder=Named(**encoder.named),
    )
    counts = {"records": 3, "items": 9, "sha256": "0" * 64}
    health = {"steps": 4, "last_loss": 1.25, "failed_items": 0}
    return save_bundle(path, encoder, recipe, ["h1", "h2"], counts, health, start)


def made(name: str, specs: dict[str, InputSpec], seed: int = 0, **options: Any) -> Encoder:
    """An encoder of the core whose every tensor counts."""
    return shaken(make_encoder(name, options, PLAIN, specs, seed))


@torch.no_grad()
def shaken(module: M, seed: int = 0) -> M:
    """In evaluation mode; biases, norms and moments left at their start values would hide one in the wrong place."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in sorted(module.state_dict().items()):
        if value.is_floating_point():
            noise = torch.rand(value.shape, generator=generator)
            value.add_(0.4 * noise if name.endswith("running_var") else 0.4 * (noise - 0.5))
    return module.eval()
