"""Captures and going back: a value that is not finite is skipped by all, written down by the rank that met it, and a
row of them sends the run back to a checkpoint, past the data in between."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.contracts import RunFailed
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.base import Context
from unlabeled.core.testing.ranks import RankPool
from unlabeled.core.testing.toys import Denoiser, Distiller, Waves, identical, lines, loader, recipe
from unlabeled.core.training import checkpoint, rollback
from unlabeled.core.training.fit import fit

STILL = Denoiser.Options(dropout=0.0)


class Spoiled(Waves):
    """Some items hold a NaN: in the file, where a reader should have marked it invalid."""

    def __init__(self, items: int = 32, spoiled: tuple[int, ...] = ()) -> None:
        super().__init__(items)
        self.spoiled = spoiled

    def sample(self, i: int) -> Any:
        sample = super().sample(i)
        if i in self.spoiled:
            sample.inputs["x"].data[1, 3] = float("nan")
        return sample


class Poisoned(Distiller):
    """Meets a NaN at the items `items`, in its loss or in one gradient: by the data, and not by the step."""

    def __init__(self, where: str, items: tuple[int, ...]) -> None:
        super().__init__()
        self.where, self.items, self._met = where, items, torch.tensor(False)

    def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
        out = super().step(batch, ctx)
        self._met = torch.isin(batch.index, torch.tensor(self.items)).any()
        if self.where == "loss":
            out["loss"] = torch.where(self._met, float("nan"), out["loss"])
        return out

    def after_backward(self, ctx: Context) -> None:
        if self.where == "gradient":
            self.head.bias.grad[0] = torch.where(self._met, float("nan"), self.head.bias.grad[0])


def planned(step: int) -> list[int]:
    """Item ids of a step of an undisturbed run."""
    index: list[int] = loader().at(step).index.tolist()
    return index


def captures(run: Path) -> dict[str, Any]:
    return {p.name: torch.load(p, weights_only=True) for p in sorted((run / "captures").glob("*"))}


def test_a_nan_in_an_input_is_named_and_kept(tmp_path: Path) -> None:
    bad = planned(4)[2]
    source = loader(Spoiled(32, (bad,)))
    fit(Distiller(), source, recipe(8), tmp_path, resume=False)
    assert [line["step"] for line in lines(tmp_path) if line["skipped"]] == [4]
    (found,) = captures(tmp_path).values()
    assert list(captures(tmp_path)) == ["step-00000004.pt"]
    assert (found["step"], found["epoch"], found["rank"], found["first"]) == (4, 0, 0, "input x")
    assert found["index"].tolist() == planned(4)
    values = found["inputs"]["x"]["values"]
    # item `bad` in row 2, channel 1, place 3; batch norm carries it to every row's embedding
    assert values.isnan().nonzero().tolist() == [[2, 1, 3]]
    assert 2 in found["rows"].tolist()
    assert {"embedding", "loss", "part error", "gradient encoder.weight"} <= set(found["found"])
    assert set(found) == {"step", "epoch", "rank", "first", "found", "rows", "index", "weight", "inputs"}


def test_one_row_is_named_where_rows_are_independent(tmp_path: Path) -> None:
    bad = planned(4)[2]
    fit(Denoiser(), loader(Spoiled(32, (bad,))), recipe(8), tmp_path, resume=False)
    (found,) = captures(tmp_path).values()
    assert found["rows"].tolist() == [2]


@pytest.mark.parametrize(("where", "first"), [("loss", "loss"), ("gradient", "gradient head.bias")])
def test_a_nan_that_is_in_no_input_is_traced_to_where_it_was_made(where: str, first: str, tmp_path: Path) -> None:
    fit(Poisoned(where, tuple(planned(4)[:1])), loader(), recipe(8), tmp_path, resume=False)
    (found,) = captures(tmp_path).values()
    assert (found["step"], found["first"]) == (4, first)
    assert found["rows"].tolist() == [] and all(v.isfinite().all() for v in (found["inputs"]["x"]["values"],))


def test_a_row_is_captured_at_its_start_and_three_files_are_kept(tmp_path: Path) -> None:
    # bad rows begin at the steps 1, 6, 11, 16, each two long, looked at every 3 steps: the row of 11 and 12 is cut by
    # the look after 12 steps
    class Now(Denoiser):
        def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
            out = super().step(batch, ctx)
            return out | {"loss": out["loss"] * (float("nan") if ctx.step % 5 in (1, 2) else 1.0)}

    fit(Now(), loader(), recipe(20), tmp_path, resume=False)
    assert list(captures(tmp_path)) == [f"step-{s:08d}.pt" for s in (6, 11, 16)]


def test_nothing_is_read_again_where_all_is_finite(tmp_path: Path) -> None:
    source = loader()
    source.at = None  # type: ignore[assignment,method-assign]
    fit(Distiller(), source, recipe(8), tmp_path, resume=False)
    assert not (tmp_path / "captures").exists()


def one_rank(run: Path, where: str) -> dict[str, Any]:
    """A fit on this rank; the last rank's share of step 4 holds the NaN, or its gradient does."""
    bad = planned(4)[-1] if ranks.world() == 1 else loader().at(4).index.tolist()[-1]
    everywhere: list[Any] = [None] * ranks.world()
    if ranks.world() > 1:
        torch.distributed.all_gather_object(everywhere, bad)
        bad = everywhere[-1]

    class Last(Denoiser):
        def after_backward(self, ctx: Context) -> None:
            if where == "gradient" and ctx.step == 4 and ranks.rank() == ranks.world() - 1:
                assert self.head.bias.grad is not None
                self.head.bias.grad[0] = float("nan")

    method = Last(STILL)
    source = loader(Spoiled(32, (bad,)) if where == "input" else None)
    fit(method, source, recipe(10, precision="64"), run, resume=False)
    return {k: v.detach().clone() for k, v in method.state_dict().items()}


@pytest.mark.parametrize("where", ["input", "gradient"])
def test_the_rank_that_met_it_writes_it(two_ranks: RankPool, tmp_path: Path, where: str) -> None:
    both = two_ranks.run(f"{__file__}:one_rank", tmp_path, where)
    assert [line["step"] for line in lines(tmp_path) if line["skipped"]] == [4]
    assert all(torch.equal(both[0][k], both[1][k]) and both[0][k].isfinite().all() for k in both[0])
    (found,) = captures(tmp_path).values()
    assert (found["step"], found["rank"], found["first"]) == (
        4,
        1,
        {"input": "input x", "gradient": "gradient head.bias"}[where],
    )
    assert len(found["index"]) == 2


class Bad(Poisoned):
    """Bad are the items in the first epoch only."""

    def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
        self.items = self.items if ctx.epoch == 0 else ()
        return super().step(batch, ctx)


ROW = tuple(i for s in range(5, 8) for i in planned(s))  # the last three batches of the first epoch


class Journalled(Bad):
    """Writes down which steps and items it sees."""

    def __init__(self, journal: Path) -> None:
        super().__init__("loss", ROW)
        self.journal = journal


@pytest.mark.parametrize("loop", ["plain", "lightning"])
def test_a_row_sends_the_run_back_past_the_data(loop: str, tmp_path: Path) -> None:
    # epochs of 8 steps, saved after 5, looked at after 9: the data of the steps 5 to 7 are bad, so that the run goes
    # back to 5 and leaves out the data of the 4 steps in between; it has its 12 steps all the same
    journal = tmp_path / "journal"
    options: dict[str, Any] = {"loop": loop, "max_skipped": 2}
    result = fit(Journalled(journal), loader(), recipe(12, **options), tmp_path, resume=False)
    assert result.steps == 12
    (back,) = result.health["rollbacks"]
    assert (back["cause"], back["step"], back["to"]) == ("not finite", 9, 5)
    assert result.health["skips"] == [[5, 4]] and result.health["skipped"] == 0
    seen = [json.loads(line) for line in journal.read_text().splitlines()]
    assert [step for step, _, _ in seen] == [*range(9), *range(5, 12)]
    assert [items for _, _, items in seen] == [planned(s) for s in [*range(9), *range(9, 16)]]
    assert [line["step"] for line in lines(tmp_path)] == list(range(12))
    assert not any(line["skipped"] for line in lines(tmp_path))
    assert list(captures(tmp_path)) == ["step-00000005.pt"]


@pytest.mark.parametrize("loop", ["plain", "lightning"])
@pytest.mark.parametrize("crash", [9, 12, 18])
def test_a_run_that_went_back_resumes_exactly(loop: str, crash: int, tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_skipped": 2, "log_every": 3}
    make = lambda: Bad("loss", ROW)  # noqa: E731
    fit(make(), loader(), recipe(20, **options), tmp_path / "whole", resume=False)
    count = 0

    def crashing(done: int, total: int, line: dict[str, Any]) -> None:
        nonlocal count
        count += done == crash
        if count == (2 if crash == 9 else 1):  # 9 is reached a second time after the run went back
            raise ConnectionError("crash")

    parts = tmp_path / "parts"
    with pytest.raises(ConnectionError):
        fit(make(), loader(), recipe(20, loop=loop, **options), parts, resume=False, on_progress=crashing)
    result = fit(make(), loader(), recipe(20, **options), parts, resume=True)
    (back,) = result.health["rollbacks"]
    assert (back["step"], back["to"]) == (9, 5)
    assert lines(parts) == lines(tmp_path / "whole")
    assert identical(checkpoint.newest(parts / "checkpoints"), checkpoint.newest(tmp_path / "whole" / "checkpoints"))


def test_it_goes_back_at_most_as_often_as_allowed(tmp_path: Path) -> None:
    class Always(Denoiser):
        def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
            out = super().step(batch, ctx)
            return out | {"loss": out["loss"] * (float("nan") if ctx.step > 5 else 1.0)}

    # bad from step 6 on, seen after 12 steps; saved at 5, which lies before the row, and at 10, which does not
    with pytest.raises(RunFailed, match=r"6 steps in a row up to step 12 .* captures"):
        fit(Always(), loader(), recipe(20, max_skipped=3, rollbacks=2, log_every=6), tmp_path, resume=False)
    state = checkpoint.newest(tmp_path / "checkpoints")
    assert state is not None
    assert [(r["step"], r["to"]) for r in state["rollbacks"]] == [(12, 5), (12, 5)]
    assert state["skips"] == [(5, 7), (5, 7)]
    assert state["step"] == 10  # as after every failure, what was saved stays; a resume goes back no third time
    with pytest.raises(RunFailed, match="6 steps in a row up to step 12"):
        fit(Always(), loader(), recipe(20, max_skipped=3, rollbacks=2, log_every=6), tmp_path, resume=True)


def test_steps_done_again_are_captured_anew(tmp_path: Path) -> None:
    # the first time the steps 5 to 7 are bad; seen after 9, back to 5; the second time step 6 alone
    class Twice(Denoiser):
        calls = 0

        def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
            out = super().step(batch, ctx)
            self.calls += 1
            bad = ctx.step in ((5, 6, 7) if self.calls <= 9 else (6,))
            return out | {"loss": out["loss"] * (float("nan") if bad else 1.0)}

    fit(Twice(), loader(), recipe(12, max_skipped=2), tmp_path, resume=False)
    assert list(captures(tmp_path)) == ["step-00000005.pt", "step-00000006.pt"]
    # and it is the batch that the run saw then: the plan's batch 10, since 4 were left out
    assert captures(tmp_path)["step-00000006.pt"]["index"].tolist() == planned(10)


def train_row(run: Path) -> dict[str, Any]:
    source = loader()
    result = fit(Bad("loss", ROW), source, recipe(14, max_skipped=2, precision="64"), run, resume=False)
    return {"back": [(r["step"], r["to"]) for r in result.health["rollbacks"]], "skips": result.health["skips"]}


def test_two_ranks_go_back_together(two_ranks: RankPool, tmp_path: Path) -> None:
    both = two_ranks.run(f"{__file__}:train_row", tmp_path)
    assert both == [{"back": [(9, 5)], "skips": [[5, 4]]}] * 2
    assert [line["step"] for line in lines(tmp_path)] == list(range(14))


def test_positions_and_ranges() -> None:
    skips = [(5, 4), (9, 2)]
    assert [rollback.position(s, skips) for s in (0, 4, 5, 8, 9, 10)] == [0, 4, 9, 12, 15, 16]
    assert list(rollback.ranges(3, 11, skips)) == [(3, 5), (9, 13), (15, 17)]
    assert list(rollback.ranges(5, 7, skips)) == [(9, 11)]
    assert list(rollback.ranges(4, 4, [])) == [(4, 4)]
    # back from 11 to 7: what the first skip left out stays out, the second is swallowed; 7 goes on where 11 stood
    after = rollback.leave_out(skips, 7, 11)
    assert after == [(5, 4), (7, 6)]
    assert rollback.position(7, after) == rollback.position(11, skips) == 17


def test_an_infinite_input_counts_too(tmp_path: Path) -> None:
    class Inf(Denoiser):
        def on_batch(self, batch: Batch, ctx: Context) -> Batch:
            x = batch.inputs["x"]
            assert isinstance(x, Dense)
            scale = float("inf") if ctx.step == 2 else 1.0
            return batch.with_inputs(x=replace(x, values=x.values * scale))

    fit(Inf(), loader(), recipe(6), tmp_path, resume=False)
    (found,) = captures(tmp_path).values()
    assert found["first"] in ("embedding", "part error")  # made by a view: the item itself is sound
