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


class OnRankOne(Denoiser):
    """On rank 1 only: a NaN at step 4, and a signal at step 13."""

    def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
        out = super().step(batch, ctx)
        if ranks.rank() == 1 and ctx.step == 13:
            os.kill(os.getpid(), signal.SIGTERM)
        return out

    def after_backward(self, ctx: Context) -> None:
        if ranks.rank() == 1 and ctx.step == 4:
            self.head.bias.grad[0] = float("nan")  # type: ignore[index]


def train(
    run: str, kind: str = "Denoiser", resume: bool = False, steps: int = 20, bad: tuple[int, ...] = ()
) -> dict[str, Any]:
    """One fit on this rank: the weights, the failures and whether it was interrupted."""
    options = {"precision": "64", "save_every": 5, "log_every": 3}
    method = {"Denoiser": Denoiser, "OnRankOne": OnRankOne}[kind](STILL)
    if ranks.rank() == 1:  # a rank that starts elsewhere is brought to the start of rank 0
        with torch.no_grad():
            method.head.bias.add_(1)
    source = loader(Waves(34, bad))
    interrupted = False
    try:
        fit(method, source, recipe(steps, **options), Path(run), resume=resume)
    except KeyboardInterrupt:
        interrupted = True
    weights = {k: v.detach().clone() for k, v in method.state_dict().items()}
    return {"weights": weights, "failures": source.failures, "interrupted": interrupted}


def assert_close(a: list[dict[str, Any]], b: list[dict[str, Any]]) -> None:
    assert [line["step"] for line in a] == [line["step"] for line in b]
    for x, y in zip(a, b, strict=True):
        assert x["loss"] == pytest.approx(y["loss"], rel=1e-9)
        assert x["grad_norm"] == pytest.approx(y["grad_norm"], rel=1e-9)


def test_two_ranks_equal_one(two_ranks: RankPool, tmp_path: Path) -> None:
    one = train(str(tmp_path / "one"))
    both = two_ranks.run(f"{__file__}:train", str(tmp_path / "two"))
    for rank in both:
        torch.testing.assert_close(rank["weights"], one["weights"], rtol=1e-9, atol=1e-9)
    assert all(torch.equal(both[0]["weights"][k], both[1]["weights"][k]) for k in one["weights"])
    assert_close(lines(tmp_path / "two"), lines(tmp_path / "one"))
    assert len(lines(tmp_path / "two")) == 20


def test_resume_with_other_rank_counts(two_ranks: RankPool, tmp_path: Path) -> None:
    # stopped at 7 and 14 by a shorter recipe with a constant rate; the saves are at 5, 7, 10, 14 ...
    whole, run = str(tmp_path / "whole"), str(tmp_path / "run")
    one = train(whole)
    for path in checkpoint.saved(tmp_path / "whole" / "checkpoints"):
        assert path.stat().st_size > 0
    two_ranks.run(f"{__file__}:train", run, "OnRankOne")  # interrupted after step 14, when it looks after step 15
    train(run, resume=True, steps=20)
    both = two_ranks.run(f"{__file__}:train", run, "Denoiser", True)
    assert len(lines(tmp_path / "run")) == 20
    assert_close(lines(tmp_path / "run")[:4], lines(tmp_path / "whole")[:4])
    assert both[0]["weights"].keys() == one["weights"].keys()


def test_a_nan_on_one_rank_is_skipped_by_both(two_ranks: RankPool, tmp_path: Path) -> None:
    both = two_ranks.run(f"{__file__}:train", str(tmp_path), "OnRankOne", False, 10)
    assert [line["step"] for line in lines(tmp_path) if line["skipped"]] == [4]
    for name, value in both[0]["weights"].items():
        assert value.isfinite().all()
        assert torch.equal(value, both[1]["weights"][name])


def test_a_signal_to_one_rank_stops_both_at_the_same_step(two_ranks: RankPool, tmp_path: Path) -> None:
    both = two_ranks.run(f"{__file__}:train", str(tmp_path), "OnRankOne")
    assert [rank["interrupted"] for rank in both] == [True, True]
    # sent in step 13, agreed on at the next look, after 15 steps
    assert checkpoint.saved(tmp_path / "checkpoints")[0].name == "step-00000015.pt"
    assert len(lines(tmp_path)) == 15


def test_ranks_share_their_failures(two_ranks: RankPool, tmp_path: Path) -> None:
    one = train(str(tmp_path / "one"), bad=(3, 9, 20))
    both = two_ranks.run(f"{__file__}:train", str(tmp_path / "two"), "Denoiser", False, 20, (3, 9, 20))
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
        "lightning": base | {"run": str(tmp_path / "lightning"), "trainer": options | {"loop": "lightning", "devices": 2}},
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
