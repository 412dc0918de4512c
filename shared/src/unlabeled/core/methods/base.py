"""What every pretraining method is: a module with one `step` and three hooks. No Lightning here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.schedules import passed
from unlabeled.core.streams import Draw, key

# Applies the recipe's views to a batch, with the draws of one view; the batch it is given stays as it is.
Views = Callable[[Batch, Draw], Batch]


def unchanged(batch: Batch, draw: Draw) -> Batch:
    """No view at all."""
    return batch


class Options(BaseModel):
    """Base of a method's options: strict, so that a typing error fails at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Context:
    """Where in the run a step stands. Rank and worker are not in it, on purpose (see streams).

    start  the step from which on what moves over the run (a teacher's momentum) moves: 0, or, where the schedule lets
           other runs branch off, the first step that knows how long this run is
    """

    seed: int
    step: int
    epoch: int
    max_steps: int
    start: int = 0

    @property
    def progress(self) -> float:
        """How much has passed of what moves over the run: 0 at first, 1 at the last step."""
        return passed(self.step, self.max_steps, self.start)

    def draw(self, batch: Batch, scope: str = "") -> Draw:
        """Per-item draws for this batch."""
        return Draw(self.seed, self.epoch, batch.index, scope)

    def shared(self, name: str) -> int:
        """Key of a draw shared by the whole batch."""
        return key(self.seed, self.step, name)


class Method(nn.Module):
    """A pretraining method.

    A subclass names its `Options`, builds what it needs around `encoder`, and gives `step`, which returns what
    `weighted` makes: `{"loss": the weighted sum of the terms, "parts": {name: term}, "embedding": (B, D) detached,
    "vitals": {name: 0-d}}`. The loss is the global one (see ranks): a sum over all ranks divided by a count over all
    ranks. Vitals are what only this method can tell the health monitor: `teacher_gap`, `target_std`, `prototype_use`.

    couples      why micro-batches would change the loss (its terms compare items), or "" where they do not
    floor        the least that its loss can be: the health monitor looks at what is above it
    tables       names of the buffers that hold a row for every item: a branch onto other data begins them anew
    local_views  the recipe's `local_views`, for the small crops of multi-crop methods; None where it has none
    """

    Options: type[Options] = Options
    couples: str = ""
    floor: float = 0.0
    tables: tuple[str, ...] = ()
    local_views: Views | None = None

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Any, views: Views = unchanged
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.specs = dict(specs)
        self.options = options
        self.views = views

    def sized(self, items: int) -> None:
        """Called once before training with the number of items of the data, for tables of items."""

    @classmethod
    def encodes(cls, specs: Mapping[str, InputSpec], options: Any) -> Mapping[str, InputSpec]:
        """The inputs that the encoder reads; a method that encodes one of them otherwise (a text) leaves it out."""
        return specs

    @property
    def exported(self) -> nn.Module:
        """The encoder that the bundle carries: the trained one, or a teacher where the paper evaluates the teacher."""
        return self.encoder

    def on_batch(self, batch: Batch, ctx: Context) -> Any:
        """Augment and mask, on the device. What it returns is handed to `step`."""
        return batch

    def step(self, batch: Any, ctx: Context) -> dict[str, Any]:
        raise NotImplementedError  # pragma: no cover

    def after_backward(self, ctx: Context) -> None:
        """Between backward and the optimiser's step (cancel a gradient, update a table)."""

    def after_step(self, ctx: Context) -> None:
        """After the optimiser's step (teacher, queue, weights that are set and not learned)."""


@runtime_checkable
class Taught(Protocol):
    """A method with a frozen teacher, an encoder whose bundle its option `teacher` names."""

    teacher: Any

    def take_teacher(self, encoder: Any) -> None: ...


@runtime_checkable
class Worded(Protocol):
    """A method with an encoder of its own for texts, whose weights its option `text_start` names."""

    text_encoder: Any

    def take_text(self, encoder: Any) -> None: ...


def weighted(parts: Mapping[str, tuple[float, Tensor]], embedding: Tensor, **vitals: Tensor) -> dict[str, Any]:
    """The dict a step returns, from named (weight, term) pairs."""
    total = sum(
        (w * t for w, t in parts.values()), start=embedding.new_zeros((), dtype=next(iter(parts.values()))[1].dtype)
    )
    return {
        "loss": total,
        "parts": {k: t.detach() for k, (_, t) in parts.items()},
        "embedding": embedding.detach(),
        "vitals": {k: v.detach() for k, v in vitals.items()},
    }
