"""What every term is: a loss of the encoder beside a method's own, on the plain items, with draws of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.base import Context, Options
from unlabeled.core.nn.base import Encoder


class Term(nn.Module):
    """A loss that a recipe puts beside any method (`terms:`).

    A subclass names its `Options`, builds its head for `encoder`, which it must not keep (the method holds it, and a second
    name would be a second set of weights in a checkpoint), and gives `loss`: the global one (see ranks), of the
    batch as it was loaded, before the method's views.

    couples  as a method's: why micro-batches would change it, or ""
    """

    Options: type[Options] = Options
    couples: str = ""

    def __init__(self, encoder: Encoder, options: Any) -> None:
        super().__init__()
        self.options = options

    def loss(self, encoder: Encoder, batch: Batch, ctx: Context) -> Tensor:
        raise NotImplementedError  # pragma: no cover


def only_grid(encoder: Encoder, term: str, rank: int | None = None) -> str:
    """The name of the encoder's only input, which lies on a grid of `rank` axes; None: of any.

    Raises RequestError where it lies on no such grid, and where there are more inputs, which would tell what was done to
    one of them.
    """
    specs = encoder.specs
    (name, spec), *others = specs.items()
    if others or spec.layout != "dense" or rank not in (None, spec.rank):
        what = "one input on a regular grid" if rank is None else f"one input on a grid of {rank} axes"
        raise RequestError(f"terms: {term} needs {what}; the encoder reads {_listed(specs)}; leave it out")
    return name


def _listed(specs: Mapping[str, Any]) -> str:
    return ", ".join(f"{n} ({s.layout}, {s.rank} axes)" for n, s in specs.items())


def grid_input(batch: Batch, name: str) -> Dense:
    x = batch.inputs[name]
    assert isinstance(x, Dense)
    return x
