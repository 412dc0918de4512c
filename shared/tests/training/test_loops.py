"""The two loops agree to the bit, and a run that was stopped and resumed equals one that was not."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from unlabeled.core.contracts import RequestError, RunFailed, TooManyBad
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.base import Context
from unlabeled.core.testing.toys import Denoiser, Distiller, Waves, identical, lines, loader, recipe
from unlabeled.core.training import checkpoint
from unlabeled.core.training.fit import FitResult, fit

KINDS = [Denoiser, Distiller]
LOOPS = ["plain", "lightning"]


def final(run: Path) -> checkpoint.State | None:
    return checkpoint.newest(run / "checkpoints")


def stopped_at(step: int) -> Any:
    """An `on_progress` that fails at the step, as a crash between two saves would."""

    def crash(done: int, total: int, line: dict[str, Any]) -> None:
        if done == step:
            raise ConnectionError("crash")

    return crash


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["32", "bf16", "64"])
def test_loops_agree_to_the_bit(kind: type[Denoiser], precision: str, tmp_path: Path) -> None:
    methods = {}
    for loop in LOOPS:
        methods[loop] = kind()
        fit(methods[loop], loader(), recipe(loop=loop, precision=precision), tmp_path / loop, resume=False)
    plain, lightning = (methods[loop].state_dict() for loop in LOOPS)
    assert identical(dict(plain), dict(lightning))
    assert lines(tmp_path / "plain") == lines(tmp_path / "lightning")
    assert len(lines(tmp_path / "plain")) == 20
    assert identical(final(tmp_path / "plain"), final(tmp_path / "lightning"))
    assert {p.dtype for p in methods["plain"].parameters()} == {torch.float64 if precision == "64" else torch.float32}


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    # without this, equalities between runs that learn nothing would hold too
    fit(Denoiser(), loader(), recipe(100), tmp_path, resume=False)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("first", LOOPS)
@pytest.mark.parametrize("second", LOOPS)
@pytest.mark.parametrize("crash", [1, 5, 9, 13, 20])
def test_resumed_equals_uninterrupted(
    kind: type[Denoiser], first: str, second: str, crash: int, tmp_path: Path
) -> None:
    # 32 items in batches of 4: epochs of 8 steps, so that 9 and 13 are in the second; saved at 5, 10, 15 and 20
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options: dict[str, Any] = {"log_every": 1, "save_every": 5}
    fit(kind(), loader(), recipe(loop="plain", **options), whole, resume=False)
    with pytest.raises(ConnectionError):
        fit(kind(), loader(), recipe(loop=first, **options), parts, resume=False, on_progress=stopped_at(crash))
    result = fit(kind(), loader(), recipe(loop=second, **options), parts, resume=True)
    # the crash comes before the save of its own step
    assert result.resumed_from == ((crash - 1) // 5 * 5 or None)
    assert result.steps == 20
    assert lines(parts) == lines(whole)
    assert identical(final(parts), final(whole))


def test_the_global_random_state_is_left_alone(tmp_path: Path) -> None:
    method = Denoiser()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(method, loader(), recipe(), tmp_path, resume=False)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_finished_run_resumes_to_itself(tmp_path: Path) -> None:
    first = fit(Denoiser(), loader(), recipe(), tmp_path, resume=False)
    method = Denoiser()
    again = fit(method, loader(), recipe(), tmp_path, resume=True)
    assert again == FitResult(20, {}, first.last_loss, 20, first.health)
    assert first.health["skipped"] == 0 and set(first.health["health"]) >= {"loss", "gradient"}
    state = final(tmp_path)
    assert state is not None
    assert identical(dict(method.state_dict()), dict(state["method"]))
    assert first.last_loss == lines(tmp_path)[-1]["loss"]


def test_falls_back_over_a_broken_checkpoint(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for run in (whole, parts):
        fit(Distiller(), loader(), recipe(), run, resume=False)
    checkpoint.path_of(parts / "checkpoints", 20).write_bytes(b"torn")
    with caplog.at_level(logging.WARNING):
        assert fit(Distiller(), loader(), recipe(), parts, resume=True).resumed_from == 15
    assert "step-00000020.pt is truncated" in caplog.text
    assert lines(parts) == lines(whole)
    assert identical(final(parts), final(whole))


def test_refusals(tmp_path: Path) -> None:
    fit(Denoiser(), loader(), recipe(), tmp_path, resume=False)
    with pytest.raises(RequestError, match="holds a run already"):
        fit(Denoiser(), loader(), recipe(), tmp_path, resume=False)
    with pytest.raises(RunFailed, match=r"made by another recipe: .*queue"):
        fit(Distiller(), loader(), recipe(30), tmp_path, resume=True)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("crash", [7, 9, 17])
def test_failed_items_are_counted_left_out_and_remembered(loop: str, crash: int, tmp_path: Path) -> None:
    # items 3 and 9 of 34 fail in epoch 0 (8 batches of 4 use 32 of the 34); from then on they are not asked for
    source = Waves(34, bad=(3, 9))
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options: dict[str, Any] = {"log_every": 1, "save_every": 4}
    result = fit(Denoiser(), loader(source), recipe(**options), whole, resume=False)
    assert set(result.failures) <= {3, 9} and result.failures
    with pytest.raises(ConnectionError):
        fit(Denoiser(), loader(source), recipe(**options), parts, resume=False, on_progress=stopped_at(crash))
    resumed = fit(Denoiser(), loader(source), recipe(loop=loop, **options), parts, resume=True)
    assert resumed.failures == result.failures
    assert lines(parts) == lines(whole)


@pytest.mark.parametrize("loop", LOOPS)
def test_too_many_bad_items_end_the_run_at_the_epoch(loop: str, tmp_path: Path) -> None:
    # 2 of 32 items are bad, 1/16; all are seen in the first epoch of 8 steps
    source = Waves(32, bad=(3, 9))
    fit(Denoiser(), loader(source), recipe(loop=loop, max_bad_fraction=1 / 16), tmp_path / "ok", resume=False)
    options: dict[str, Any] = {"loop": loop, "max_bad_fraction": 1 / 17, "log_every": 1}
    with pytest.raises(TooManyBad, match=r"2 of 32 items .* wave (3|9) is broken"):
        fit(Denoiser(), loader(source), recipe(**options), tmp_path / "bad", resume=False)
    assert len(lines(tmp_path / "bad")) == 8
    with pytest.raises(TooManyBad):  # also where the run ends before an epoch does
        fit(
            Denoiser(),
            loader(source),
            recipe(7, **{**options, "max_bad_fraction": 0.0}),
            tmp_path / "short",
            resume=False,
        )


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize(("steps", "save_every"), [(7, 3), (16, 8), (8, 100)])
def test_a_run_of_too_many_bad_items_ends_so_again_on_resume(
    loop: str, steps: int, save_every: int, tmp_path: Path
) -> None:
    # ended inside an epoch of 8 steps after saves at 3 and 6; after the save of the epoch's end; with no save but the last
    source = Waves(32, bad=(3, 9))
    options: dict[str, Any] = {"loop": loop, "max_bad_fraction": 0.0, "save_every": save_every}
    for resume in (False, True, True):
        with pytest.raises(TooManyBad):
            fit(Denoiser(), loader(source), recipe(steps, **options), tmp_path, resume=resume)
        assert len(lines(tmp_path)) == min(steps, 8)  # never into the second epoch
    assert not checkpoint.path_of(tmp_path / "checkpoints", steps).exists()


def test_a_finished_state_of_too_many_bad_items_is_refused(tmp_path: Path) -> None:
    # an interrupt in the last step of an epoch saves before the epoch's failures are counted
    source = Waves(32, bad=(3, 9))
    fit(Denoiser(), loader(source), recipe(8), tmp_path, resume=False)
    with pytest.raises(TooManyBad):
        fit(Denoiser(), loader(source), recipe(8, max_bad_fraction=0.0), tmp_path, resume=True)


def resumed(run: Path, caplog: pytest.LogCaptureFixture, **trainer: Any) -> list[tuple[str, str]]:
    caplog.clear()
    with caplog.at_level(logging.INFO, "unlabeled"):
        fit(Denoiser(), loader(), recipe(**trainer), run, resume=True)
    return [(r.levelname, r.getMessage()) for r in caplog.records if "resuming" in r.getMessage()]


def test_a_resume_says_whether_it_is_exact(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "checkpoints"
    fit(Denoiser(), loader(), recipe(15, threads=1), tmp_path, resume=False)
    assert resumed(tmp_path, caplog, threads=1) == [("INFO", "resuming after step 15: exact")]
    checkpoint.path_of(folder, 20).unlink()
    why = "not exact, since it was saved with 1 thread and goes on with 2 threads"
    assert resumed(tmp_path, caplog, threads=2) == [("WARNING", f"resuming after step 15: {why}")]
    assert resumed(tmp_path, caplog, threads=1) == []  # finished: no step is left
    checkpoint.path_of(folder, 20).unlink()
    state = final(tmp_path)
    assert state is not None
    state["conditions"] |= {"device": "cuda", "torch": "2.0"}
    checkpoint.save(folder, state, keep=1)
    ((_, line),) = resumed(tmp_path, caplog, threads=1)
    assert "with device cuda and goes on with device cpu; it was saved with torch 2.0 and goes on with torch" in line
    checkpoint.path_of(folder, 20).unlink()
    del state["conditions"]  # as saved by an older version
    checkpoint.save(folder, state, keep=1)
    ((level, line),) = resumed(tmp_path, caplog, threads=1)
    assert level == "WARNING" and line.startswith("resuming after step 15: unknown whether exact")


class Endless(Denoiser):
    """The loss of the last of 20 steps is infinite."""

    def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
        out = super().step(batch, ctx)
        return out | {"loss": out["loss"] * (float("inf") if ctx.step == 19 else 1.0)}


def test_a_last_loss_that_is_not_finite_is_none(tmp_path: Path) -> None:
    assert fit(Endless(), loader(), recipe(), tmp_path, resume=False).last_loss is None


def test_progress_and_threads(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int, torch.Size]] = []

    def progress(done: int, total: int, line: dict[str, Any]) -> None:
        seen.append((done, total, line["step"], line["embedding"].shape))
        assert torch.get_num_threads() == 2
        assert 0 <= line["wait"] <= 1

    before = torch.get_num_threads()
    fit(Denoiser(), loader(), recipe(8, threads=2), tmp_path, resume=False, on_progress=progress)
    assert seen == [(n, 8, n - 1, torch.Size([4, 8])) for n in (3, 6, 8)]  # every third step, and the last
    assert torch.get_num_threads() == before


def test_an_embedding_of_other_rows_than_items_is_refused(tmp_path: Path) -> None:
    class Nodes(Denoiser):
        def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
            return super().step(batch, ctx) | {"embedding": torch.zeros(7, 3)}

    with pytest.raises(RunFailed, match="method toy returned an embedding of 7 rows for 4 items"):
        fit(Nodes(), loader(), recipe(2), tmp_path, resume=False)
