"""The contract every pretraining method must pass. A test file subclasses `MethodContract` and says how to build it.

What it asks: a stored 20-step loss curve, two ranks equal one in values and gradients, rows of weight 0 and padding
change nothing, no wait for the device, save and load in one process continue to the bit, and Lightning equals the plain loop.
The method's own oracle (a closed form, an invariant) stands beside it in the same file.
"""

from __future__ import annotations

import inspect
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F

from unlabeled.core import streams
from unlabeled.core.build import ENCODERS, seeded
from unlabeled.core.contracts import Input, InputSpec, Sample, load
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.contracts.domain import methods
from unlabeled.core.contracts.recipe import Recipe, validated
from unlabeled.core.data.loading import Collate, Loader
from unlabeled.core.data.plans import Uniform
from unlabeled.core.methods.base import Context, Method, Views
from unlabeled.core.streams import Draw
from unlabeled.core.testing import toys
from unlabeled.core.testing.ranks import RankPool, assert_same, function, share, step_and_gradients
from unlabeled.core.testing.sync import NoWaiting
from unlabeled.core.training import checkpoint
from unlabeled.core.training.fit import fit

CTX = Context(seed=0, step=3, epoch=1, max_steps=20)
ITEMS, BATCH, STEPS = 32, 8, 20
FAILED = [2, 3]  # rows of the contract's batch


class Grids:
    """`ITEMS` items of 2 channels on a grid of `shape`, in 8 records; each a smooth wave of its own with noise."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def __len__(self) -> int:
        return ITEMS

    def sample(self, i: int) -> Sample:
        draw = streams.rng(0, "grid", i)
        grid = torch.meshgrid(*[torch.arange(n) / n for n in self.shape], indexing="ij")
        phase = sum((float(f) * g for f, g in zip(draw.uniform(2, 9, len(grid)), grid, strict=True)), torch.zeros(()))
        data = torch.stack([phase.sin(), phase.cos()]).numpy() + 0.2 * draw.standard_normal((2, *self.shape))
        unit = tuple(1.0 for _ in self.shape)
        x = Input(data.astype("float32"), ("a", "b"), ("", ""), unit="px", spacing=unit)
        return Sample({"x": x}, key=f"grid-{i}", group=f"g{i // 4}", index=i, record=i // 4)

    @property
    def specs(self) -> dict[str, InputSpec]:
        axes = ("z", "y", "x")[-len(self.shape) :]
        return {"x": InputSpec.of(self.sample(0).inputs["x"], axes=axes)}


class Words(Grids):
    """`ITEMS` items of 2 channels of whole numbers, below 7 and 5, on a 1-D grid: they count up, and some are wrong."""

    sizes = (7, 5)

    def sample(self, i: int) -> Sample:
        draw, made = streams.rng(0, "words", i), super().sample(i)
        sizes = torch.tensor(self.sizes)[:, None]
        counted = (torch.arange(self.shape[0]) + torch.from_numpy(draw.integers(0, 35, (2, 1)))) % sizes
        wrong = torch.from_numpy(draw.random((2, self.shape[0])) < 0.1)
        data = torch.where(wrong, torch.from_numpy(draw.integers(0, 5, (2, self.shape[0]))), counted)
        return replace(made, inputs={"x": replace(made.inputs["x"], data=data.numpy().astype("float32"))})


def noisy(batch: Batch, draw: Draw) -> Batch:
    """A view for tests: noise and a scale per item."""
    x = batch.inputs["x"]
    assert isinstance(x, Dense)
    ones = [1] * x.rank
    scale = 1 + 0.2 * draw.normal("scale", 1, *ones).to(x.values.dtype)
    noise = draw.normal("noise", *x.values.shape[1:]).to(x.values.dtype)
    return batch.with_inputs(x=replace(x, values=x.values * scale + 0.5 * noise))


class MethodContract:
    """Subclass it as `TestNAME`; pytest then runs every clause.

    name     of the method's card
    encoder  name of a core encoder (or "module:Class") and its options; small: width at most 64, depth at most 2
    options  of the method, small too
    shape    grid of an item: one to three axes
    local_views  whether the method gets small crops too
    source   what the items are, and views, what changes them; Words with `unchanged` for methods on ids
    """

    name: str
    encoder: ClassVar[tuple[str, dict[str, Any]]] = (
        "tokens",
        {"width": 16, "depth": 2, "heads": 2, "patch": (4,)},
    )
    options: ClassVar[dict[str, Any]] = {}
    shape: ClassVar[tuple[int, ...]] = (24,)
    lr: ClassVar[float] = 3e-3
    local_views: ClassVar[bool] = False
    views: ClassVar[Views] = staticmethod(noisy)

    @classmethod
    def source(cls) -> Grids:
        return Grids(cls.shape)

    @classmethod
    def method(cls, **options: Any) -> Method:
        """A small method with fixed random weights, in fp32."""
        kind = load(methods()[cls.name].target)
        specs = cls.source().specs
        made = load(ENCODERS.get(cls.encoder[0], cls.encoder[0]))
        chosen = validated(kind.Options, cls.options | options, "method")
        with seeded(0, "encoder"):
            encoder = made(kind.encodes(specs, chosen), validated(made.Options, cls.encoder[1], "encoder"))
        with seeded(0, "method"):
            built = kind(encoder, specs, chosen, cls.views)
        assert isinstance(built, Method)
        built.sized(ITEMS)
        if cls.local_views:
            built.local_views = cls.views
        return built

    @classmethod
    def batch(cls) -> Batch:
        """8 items in fp64: half of the second is invalid, two failed to load. A first rank has 2 that count, a second 4."""
        source = cls.source()
        batch = Collate(source.specs)([source.sample(i) for i in range(BATCH)])
        x = batch.inputs["x"]
        assert isinstance(x, Dense)
        valid = x.valid.clone()
        valid[1, ..., cls.shape[-1] // 2 :] = False
        valid[FAILED] = False
        weight = torch.ones(BATCH)
        weight[FAILED] = 0
        return replace(
            batch.with_inputs(
                x=replace(x, values=x.values.double(), valid=valid, spacing=x.spacing.double(), whole=False)
            ),
            weight=weight,
        )

    @classmethod
    def recipe(cls, **trainer: Any) -> Recipe:
        made = toys.recipe(STEPS, **trainer)
        optimiser = made.optimiser.model_copy(update={"lr": cls.lr})
        return made.model_copy(update={"batch_size": BATCH, "optimiser": optimiser})

    @classmethod
    def trained(cls, run: Path, resume: bool = False, **trainer: Any) -> Method:
        source, method = cls.source(), cls.method()
        loader = Loader(source, source.specs, Uniform(ITEMS, BATCH), seed=0)
        fit(method, loader, cls.recipe(threads=1, **trainer), run, resume=resume)
        return method

    @classmethod
    def gradients(cls) -> dict[str, torch.Tensor]:
        """On this rank's share of the batch: loss, gradients, and the state after the hooks."""
        method = cls.method().double()
        found = step_and_gradients(method, share(cls.batch()), CTX)
        method.after_backward(CTX)
        method.after_step(CTX)
        return found | {f"after {name}": b.clone() for name, b in method.named_buffers()}

    def test_step_returns_what_loops_read(self) -> None:
        out = self.method().double().step(*self._given())
        assert {"loss", "parts", "embedding", "vitals"} <= set(out)
        assert out["loss"].ndim == 0 and out["loss"].isfinite()
        assert out["embedding"].shape[0] == BATCH and not out["embedding"].requires_grad
        assert all(v.ndim == 0 and not v.requires_grad for v in (out["parts"] | out["vitals"]).values())

    def _given(self) -> tuple[Any, Context]:
        return self.method().double().on_batch(self.batch(), CTX), CTX

    def test_two_ranks_equal_one(self, two_ranks: RankPool) -> None:
        alone = self.gradients()
        assert any(name.startswith("grad encoder") for name in alone)
        file = inspect.getfile(type(self))
        assert_same(two_ranks.run(f"{__name__}:on_rank", file, type(self).__name__), alone, tolerance=1e-9)

    def test_rows_of_weight_zero_change_nothing(self) -> None:
        plain, spoiled = self.batch(), self.batch()
        x = spoiled.inputs["x"]
        assert isinstance(x, Dense)
        x.values[FAILED] = torch.nan
        x.values[1, ..., self.shape[-1] // 2 :] = 1e6
        found = [step_and_gradients(self.method().double(), b, CTX) for b in (plain, spoiled)]
        assert_same(found[:1], found[1], tolerance=1e-12)

    def test_padding_changes_nothing(self) -> None:
        """An item has the same views, masks and loss in a batch that is padded to a larger grid."""
        plain = self.batch()
        x = plain.inputs["x"]
        assert isinstance(x, Dense)
        far = [n for _ in self.shape for n in (0, 16)]
        wider = replace(x, values=F.pad(x.values, far, value=7.0), valid=F.pad(x.valid, far))
        found = [step_and_gradients(self.method().double(), b, CTX) for b in (plain, plain.with_inputs(x=wider))]
        assert_same(found[:1], found[1], tolerance=1e-9)

    def test_a_step_does_not_wait_for_the_device(self) -> None:
        method, batch = self.method().double(), self.batch()
        with NoWaiting():  # type: ignore[no-untyped-call]
            method.step(method.on_batch(batch, CTX), CTX)["loss"].backward()
            method.after_backward(CTX)
            method.after_step(CTX)

    def test_stored_curve_and_resume_and_both_loops(self, tmp_path: Path) -> None:
        """One run of 20 steps is the curve, the half to resume from, and what Lightning must equal."""
        whole = self.trained(tmp_path / "whole", save_every=10)
        lines = toys.lines(tmp_path / "whole")
        self._compare_with_stored([line["loss"] for line in lines])

        halved = tmp_path / "whole-again"
        self.trained(halved, save_every=10)
        checkpoint.path_of(halved / "checkpoints", STEPS).unlink()
        again = self.trained(halved, resume=True, save_every=10)
        assert toys.lines(halved) == lines
        assert toys.identical(again.state_dict(), whole.state_dict())

        other = self.trained(tmp_path / "lightning", loop="lightning")
        assert toys.lines(tmp_path / "lightning") == lines
        assert toys.identical(other.state_dict(), whole.state_dict())

    def _compare_with_stored(self, losses: list[float]) -> None:
        file = Path(inspect.getfile(type(self))).parent / "curves" / f"{type(self).__name__.removeprefix('Test')}.json"
        if os.environ.get("UNLABELED_WRITE_CURVES"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps([float(f"{loss:.7g}") for loss in losses]) + "\n")
        stored = json.loads(file.read_text())
        # other CPUs sum in another order; 20 steps let that grow to far less than this
        assert len(stored) == STEPS and all(map(math.isfinite, losses))
        assert losses == pytest.approx(stored, rel=2e-3, abs=2e-4)


def on_rank(file: str, name: str) -> dict[str, torch.Tensor]:
    """What a rank does: the gradients of the contract `name` in the test file."""
    found: dict[str, torch.Tensor] = function(f"{file}:{name}").gradients()
    return found
