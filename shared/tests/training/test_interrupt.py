"""SIGINT, SIGTERM and SIGUSR1: the step is finished, the state saved, the run resumable."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.base import Context
from unlabeled.core.testing.toys import Denoiser, identical, lines, loader, recipe
from unlabeled.core.training import checkpoint
from unlabeled.core.training.fit import fit
from unlabeled.core.training.interrupt import Interrupt


class Signalled(Denoiser):
    """Gets a signal in the middle of step 6."""

    number = signal.SIGTERM

    def step(self, batch: Batch, ctx: Context) -> dict[str, Any]:
        if ctx.step == 6:
            os.kill(os.getpid(), self.number)
        return super().step(batch, ctx)


@pytest.mark.parametrize("loop", ["plain", "lightning"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_saves_and_the_run_goes_on_later(loop: str, number: signal.Signals, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    options: dict[str, Any] = {"loop": loop, "save_every": 100, "log_every": 100}
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    method = Signalled()
    method.number = number
    with pytest.raises(KeyboardInterrupt):
        fit(method, loader(), recipe(**options), parts, resume=False)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
    assert [p.name for p in checkpoint.saved(parts / "checkpoints")] == ["step-00000007.pt"]  # step 6 was finished
    assert [line["step"] for line in lines(parts)] == list(range(7))
    assert fit(Denoiser(), loader(), recipe(**options), parts, resume=True).resumed_from == 7
    fit(Denoiser(), loader(), recipe(**options), whole, resume=False)
    assert lines(parts) == lines(whole)
    assert identical(checkpoint.newest(parts / "checkpoints"), checkpoint.newest(whole / "checkpoints"))


def test_under_slurm_the_save_is_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # there Lightning would answer SIGUSR1 with a checkpoint of its own beside the process and a call of scontrol
    slurm = {
        "NTASKS": "1",
        "NNODES": "1",
        "JOB_NAME": "train",
        "JOB_ID": "7",
        "PROCID": "0",
        "LOCALID": "0",
        "NODEID": "0",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.chdir(tmp_path)
    method = Signalled()
    method.number = signal.SIGUSR1
    with pytest.raises(KeyboardInterrupt):
        fit(method, loader(), recipe(loop="lightning", devices=1), tmp_path / "run", resume=False)
    assert [p.name for p in tmp_path.iterdir()] == ["run"]
    assert checkpoint.saved(tmp_path / "run" / "checkpoints")[0].name == "step-00000007.pt"


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupt() as interrupt:
            os.kill(os.getpid(), signal.SIGINT)
            asked = [interrupt.asked]
            os.kill(os.getpid(), signal.SIGTERM)
            asked.append(interrupt.asked)
            handler = signal.getsignal(signal.SIGINT)  # others have their default effect after the first signal
        assert asked == [False, True]
        assert handler == signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_have_no_signals() -> None:
    failures: list[BaseException] = []

    def enter() -> None:
        try:
            with Interrupt() as interrupt:
                assert not interrupt.asked
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert failures == []


SCRIPT = """
import json, sys
from unlabeled.core.testing.train import train
try:
    train(json.loads(sys.argv[1]))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["plain", "lightning"])
def test_ctrl_c_reaches_the_whole_group_workers_too(loop: str, tmp_path: Path) -> None:
    # a terminal signals every process of the group: the loader's workers must not end the run before it has saved
    run, journal = tmp_path / "run", tmp_path / "journal"
    job = {
        "run": str(run), "method": "Denoiser", "journal": str(journal), "workers": 2, "steps": 10**6,
        "trainer": {"loop": loop, "save_every": 10**6},
    }  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, json.dumps(job)], start_new_session=True)
    deadline = time.monotonic() + 60
    while not journal.exists() or journal.read_text().count("\n") < 20:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 130
    done = len(lines(run))
    assert [p.name for p in checkpoint.saved(run / "checkpoints")] == [f"step-{done:08d}.pt"]
    assert done == journal.read_text().count("\n")
