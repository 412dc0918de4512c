"""The guard: a step that meets a NaN or an Inf changes nothing, and too many of them in a row end the run."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from unlabeled.core.contracts import RunFailed
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.base import Context
from unlabeled.core.testing.toys import Denoiser, Distiller, identical, lines, loader, recipe
from unlabeled.core.training.fit import fit
from unlabeled.core.training.step import Step

CPU = torch.device("cpu")


def poisoned(kind: type[Denoiser], where: str, at: range, value: float = float("nan")) -> Denoiser:
    """A toy that meets `value` in its input, loss or one gradient at the steps `at`."""

    class Poisoned(kind):  # type: ignore[valid-type,misc]
        def on_batch(self, batch: Batch, ctx: Context) -> Batch:
            if where == "input" and ctx.step in at:
                x = batch.inputs["x"]
                assert isinstance(x, Dense)
                batch = batch.with_inputs(x=replace(x, values=x.values.index_fill(0, torch.tensor([1]), value)))
            return batch

        def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
            out: dict[str, Any] = super().step(batch, ctx)
            if where == "loss" and ctx.step in at:
                out["loss"] = out["loss"] * value
            return out

        def after_backward(self, ctx: Context) -> None:
            if where == "gradient" and ctx.step in at:
                self.head.bias.grad[0] = value

    method: Denoiser = Poisoned()
    return method


def step_of(method: Denoiser, clip: float | None = None) -> Step:
    return Step(method, recipe(10, optimiser={"clip": clip}))


def run(step: Step, start: int, stop: int) -> list[dict[str, Any]]:
    def backward(loss: Tensor) -> None:
        torch.autograd.backward(loss)

    return [
        step(i, epoch, batch, CPU, backward, step.optimiser.step)
        for i, (epoch, batch) in enumerate(loader().batches(start, stop), start)
    ]


def snapshot(step: Step) -> dict[str, Any]:
    state = {"method": step.method.state_dict(), "optimiser": step.optimiser.state_dict()}
    del state["optimiser"]["param_groups"]  # holds the learning rate, a function of the step
    copy: dict[str, Any] = torch.utils._pytree.tree_map_only(Tensor, Tensor.clone, state)
    return copy


@pytest.mark.parametrize("kind", [Denoiser, Distiller])
@pytest.mark.parametrize("where", ["input", "loss", "gradient"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_bad_step_changes_no_bit(kind: type[Denoiser], where: str, value: float, clip: float | None) -> None:
    step = step_of(poisoned(kind, where, range(3, 4), value), clip)
    assert [bool(o["skipped"]) for o in run(step, 0, 3)] == [False] * 3
    before = snapshot(step)
    (out,) = run(step, 3, 4)
    assert bool(out["skipped"])
    assert identical(snapshot(step), before)  # weights, moments, counters, running moments, teacher, queue, pointer
    run(step, 4, 5)
    assert not identical(snapshot(step), before)
    assert step.guard.counts.tolist() == [1, 0, 1]  # one in all, none in a row now, a longest row of one


def test_a_bad_first_step_leaves_moments_of_zero() -> None:
    step = step_of(poisoned(Distiller, "loss", range(1)))
    before = {k: v.clone() for k, v in step.method.state_dict().items()}
    run(step, 0, 1)
    assert identical(dict(step.method.state_dict()), before)
    for moments in step.optimiser.state.values():
        assert all(not v.any() for v in moments.values())


@pytest.mark.parametrize("loop", ["plain", "lightning"])
def test_as_many_bad_steps_as_allowed_are_survived(tmp_path: Path, loop: str) -> None:
    method = poisoned(Distiller, "loss", range(4, 7))
    fit(method, loader(), recipe(12, loop=loop, max_skipped=3), tmp_path, resume=False)
    table = lines(tmp_path)
    assert [line["step"] for line in table if line["skipped"]] == [4, 5, 6]
    assert [line["loss"] is None for line in table] == [line["skipped"] for line in table]
    assert all(p.isfinite().all() for p in method.state_dict().values())


@pytest.mark.parametrize("loop", ["plain", "lightning"])
def test_one_more_stops_the_run_at_the_next_look_where_it_may_not_go_back(tmp_path: Path, loop: str) -> None:
    # bad: 4, 5, 6, 7; looked at every 3 steps: after steps 0-8, 9 in all; the row of 4 exceeds 3
    method = poisoned(Denoiser, "input", range(4, 8))
    with pytest.raises(RunFailed, match=r"4 steps in a row up to step 9 .* not finite"):
        fit(method, loader(), recipe(20, loop=loop, max_skipped=3, rollbacks=0), tmp_path, resume=False)
    assert len(lines(tmp_path)) == 9


def test_bad_steps_that_are_not_in_a_row_do_not_add_up(tmp_path: Path) -> None:
    class EveryOther(Denoiser):
        def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
            out = super().step(batch, ctx)
            return out | {"loss": out["loss"] * (float("nan") if ctx.step % 2 else 1.0)}

    fit(EveryOther(), loader(), recipe(20, max_skipped=1), tmp_path, resume=False)
    assert sum(line["skipped"] for line in lines(tmp_path)) == 10


def test_a_row_is_counted_across_a_resume(tmp_path: Path) -> None:
    # bad from step 4 on; saved after 6 steps with a row of 2; the resumed run has a row of 5 where it looks, after 9
    short = recipe(6, max_skipped=3, save_every=6)
    fit(poisoned(Denoiser, "loss", range(4, 99)), loader(), short, tmp_path, resume=False)
    with pytest.raises(RunFailed, match="5 steps in a row up to step 9"):
        again = recipe(20, max_skipped=3, rollbacks=0)
        fit(poisoned(Denoiser, "loss", range(4, 99)), loader(), again, tmp_path, resume=True)


def test_clipping_bounds_the_gradient() -> None:
    step = step_of(Denoiser(), clip=1e-3)
    (out,) = run(step, 0, 1)
    norm = torch.stack([p.grad.norm() for p in step.method.parameters() if p.grad is not None]).norm()
    assert out["grad_norm"] > 1e-3  # logged before clipping
    assert norm == pytest.approx(1e-3, rel=1e-3)  # torch divides by the norm + 1e-6
