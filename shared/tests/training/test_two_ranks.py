"""Two ranks do what one does: losses, weights, failures, skipped steps, stops, resume 2 -> 1 -> 2."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.base import Context
from unlabeled.core.testing.ranks import RankPool
from unlabeled.core.testing.toys import Denoiser, Waves, lines, loader, recipe
from unlabeled.core.training import checkpoint
from unlabeled.core.training.fit import fit

# dropout draws by position in the rank's share, so that it is left out where ranks are compared
STILL = Denoiser.Options(dropout=0.0)


class Disturbed(Denoiser):
    """On the last rank only: a NaN in the gradient of the step `nan`, and a signal in the step `stop`."""

    def __init__(self, nan: int | None, stop: int | None) -> None:
        super().__init__(STILL)
        self.nan, self.stop = nan, stop

    def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
        if ctx.step == self.stop and ranks.rank() == ranks.world() - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().step(batch, ctx)

    def after_backward(self, ctx: Context) -> None:
        if ctx.step == self.nan and ranks.rank() == ranks.world() - 1:
            assert self.head.bias.grad is not None
            self.head.bias.grad[0] = float("nan")


def train(
    run: Path, nan: int | None = None, stop: int | None = None, bad: tuple[int, ...] = (), resume: bool = False
) -> dict[str, Any]:
    """One fit on this rank: its weights, the failures it knows, and whether it was interrupted."""
    method = Disturbed(nan, stop)
    if ranks.rank() == 1:  # a rank that starts elsewhere is brought to the start of rank 0
        with torch.no_grad():
            method.head.bias.add_(1)
    source = loader(Waves(34, bad))
    interrupted = False
    try:
        fit(method, source, recipe(precision="64", save_every=5, log_every=3), run, resume=resume)
    except KeyboardInterrupt:
        interrupted = True
    weights = {k: v.detach().clone() for k, v in method.state_dict().items()}
    return {"weights": weights, "failures": source.failures, "interrupted": interrupted}


TRAIN = f"{__file__}:train"


def assert_close(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> None:
    assert [line["step"] for line in a] == [line["step"] for line in b]
    for x, y in zip(a, b, strict=True):
        assert x["loss"] == pytest.approx(y["loss"], rel=1e-9)
        assert x["grad_norm"] == pytest.approx(y["grad_norm"], rel=1e-9)


def test_two_ranks_equal_one(two_ranks: RankPool, tmp_path: Path) -> None:
    one = train(tmp_path / "one")
    both = two_ranks.run(TRAIN, tmp_path / "two")
    for rank in both:
        torch.testing.assert_close(rank["weights"], one["weights"], rtol=1e-9, atol=1e-9)
    assert all(torch.equal(both[0]["weights"][k], both[1]["weights"][k]) for k in one["weights"])
    assert_close(lines(tmp_path / "two"), lines(tmp_path / "one"))
    assert len(lines(tmp_path / "two")) == 20


def test_two_then_one_then_two(two_ranks: RankPool, tmp_path: Path) -> None:
    one = train(tmp_path / "whole")
    two_ranks.run(TRAIN, tmp_path / "run", None, 4)  # two ranks agree to stop where they look: after 6 steps
    assert checkpoint.saved(tmp_path / "run" / "checkpoints")[0].name == "step-00000006.pt"
    train(tmp_path / "run", stop=10, resume=True)  # one stops at once: after 11
    assert checkpoint.saved(tmp_path / "run" / "checkpoints")[0].name == "step-00000011.pt"
    both = two_ranks.run(TRAIN, tmp_path / "run", None, None, (), True)
    for rank in both:
        torch.testing.assert_close(rank["weights"], one["weights"], rtol=1e-9, atol=1e-9)
    assert_close(lines(tmp_path / "run"), lines(tmp_path / "whole"))


def test_a_nan_on_one_rank_is_skipped_by_both(two_ranks: RankPool, tmp_path: Path) -> None:
    both = two_ranks.run(TRAIN, tmp_path, 4)
    assert [line["step"] for line in lines(tmp_path) if line["skipped"]] == [4]
    for name, value in both[0]["weights"].items():
        assert value.isfinite().all()
        assert torch.equal(value, both[1]["weights"][name])


def test_a_signal_to_one_rank_stops_both_at_the_same_step(two_ranks: RankPool, tmp_path: Path) -> None:
    both = two_ranks.run(TRAIN, tmp_path, None, 13)
    assert [rank["interrupted"] for rank in both] == [True, True]
    # sent in step 13, agreed on at the next look, after 15 steps
    assert checkpoint.saved(tmp_path / "checkpoints")[0].name == "step-00000015.pt"
    assert len(lines(tmp_path)) == 15


def test_ranks_share_their_failures(two_ranks: RankPool, tmp_path: Path) -> None:
    one = train(tmp_path / "one", bad=(3, 9, 20))
    both = two_ranks.run(TRAIN, tmp_path / "two", None, None, (3, 9, 20))
    assert [rank["failures"] for rank in both] == [one["failures"]] * 2
    assert len(one["failures"]) == 3
    assert_close(lines(tmp_path / "two"), lines(tmp_path / "one"))


def port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        number: int = s.getsockname()[1]
        return number


@pytest.mark.slow
def test_real_launchers(tmp_path: Path) -> None:
    """Lightning starting its own two processes, and torchrun starting ours, equal one process."""
    base = {"method": "Denoiser", "dropout": 0.0}
    options = {"precision": "64"}
    job = {
        "lightning": base
        | {"run": str(tmp_path / "lightning"), "trainer": options | {"loop": "lightning", "devices": 2}},
        "torchrun": base | {"run": str(tmp_path / "torchrun"), "trainer": options},
        "alone": base | {"run": str(tmp_path / "alone"), "trainer": options},
    }
    module = "unlabeled.core.testing.train"
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={port()}", "-m", module]
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    for name, start in (("lightning", ["-m", module]), ("torchrun", torchrun), ("alone", ["-m", module])):
        subprocess.run([sys.executable, *start, json.dumps(job[name])], check=True, env=env, timeout=120)
    for name in ("lightning", "torchrun"):
        assert_close(lines(tmp_path / name), lines(tmp_path / "alone"))
        mine, theirs = (checkpoint.newest(tmp_path / n / "checkpoints") for n in (name, "alone"))
        assert mine is not None and theirs is not None
        torch.testing.assert_close(mine["method"], theirs["method"], rtol=1e-9, atol=1e-9)
