"""One process trains in a folder at a time; the lock ends with its process, not with the loader's workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.testing.toys import Denoiser, loader, recipe
from unlabeled.core.training.fit import fit


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path: Path) -> None:
    run, journal = tmp_path / "run", tmp_path / "journal"
    trainer: dict[str, Any] = {"save_every": 10, "log_every": 10}
    job = {
        "run": str(run), "method": "Denoiser", "journal": str(journal), "steps": 10**6, "workers": 2, "trainer": trainer,
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "unlabeled.core.testing.train", json.dumps(job)], start_new_session=True
    )
    try:
        deadline = time.monotonic() + 60
        while not journal.exists() or journal.read_text().count("\n") < 30:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        with pytest.raises(RequestError, match=r"another process is training in .*run; wait for it or end it"):
            fit(Denoiser(), loader(), recipe(20, **trainer), run, resume=True)
        # the workers are stopped, as a busy machine would, so that they outlive the process: they hold no lock
        os.killpg(process.pid, signal.SIGSTOP)
        process.kill()
        process.wait(10)
        done = int(max((run / "checkpoints").glob("step-*.pt")).stem.removeprefix("step-"))
        assert fit(Denoiser(), loader(), recipe(done, **trainer), run, resume=True).resumed_from == done
    finally:
        os.killpg(process.pid, signal.SIGKILL)
