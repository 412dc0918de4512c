import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.evaluation.labels import read_labels
from unlabeled.core.studies.runner import Job, run
from unlabeled.core.training import checkpoint


def write(path: Path, after: tuple[str, ...] = ()) -> Job:
    return Job(path.name, path, partial(path.write_text, path.name), after)


def test_an_interrupt_ends_the_processes_and_leaves_what_was_done(tmp_path: Path) -> None:
    names: list[str] = []

    def stop(done: int, total: int, name: str) -> None:
        names.append(name)
        if name:
            raise KeyboardInterrupt

    sleeper = Job("sleeper", tmp_path / "sleeper", partial(time.sleep, 300))
    jobs = [sleeper, write(tmp_path / "quick"), write(tmp_path / "never", ("sleeper",))]
    others = set(multiprocessing.active_children())  # such as the pair of ranks the session keeps
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run(jobs, 2, stop)
    assert time.monotonic() - began < 60  # of the sleeper's 300 s
    assert names == ["", "quick"]
    assert [p.name for p in tmp_path.iterdir()] == ["quick"]
    assert set(multiprocessing.active_children()) <= others


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


# a parent with two jobs of no end: one sleeps, one trains and saves only where it is told to stop
PARENT = """
import json, runpy, sys
from functools import partial
from pathlib import Path
from unlabeled.core.studies.runner import Job, run
from unlabeled.core.testing.train import train
folder = Path(sys.argv[1])
jobs = [
    Job("sleep", folder / "a", partial(runpy.run_path, str(folder / "sleep.py"))),
    Job("train", folder / "b", partial(train, json.loads(sys.argv[2]))),
]
try:
    run(jobs, 2)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize(("number", "group"), [(signal.SIGTERM, False), (signal.SIGTERM, True), (signal.SIGINT, True)])
def test_a_signal_to_the_parent_or_to_all_leaves_a_checkpoint_and_no_process(
    number: signal.Signals, group: bool, tmp_path: Path
) -> None:
    asleep, journal, out = tmp_path / "asleep", tmp_path / "journal", tmp_path / "run"
    (tmp_path / "sleep.py").write_text(f"import pathlib, time\npathlib.Path({str(asleep)!r}).touch()\ntime.sleep(300)")
    job = {"run": str(out), "method": "Denoiser", "journal": str(journal), "steps": 10**6}
    arguments = [str(tmp_path), json.dumps(job | {"trainer": {"save_every": 10**6}})]
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *arguments], start_new_session=True)
    try:
        wait_for(lambda: asleep.exists() and journal.exists() and journal.read_text().count("\n") > 20)
        (os.killpg if group else os.kill)(parent.pid, number)
        assert parent.wait(60) == 130
        wait_for(lambda: gone(parent.pid))  # the whole session of processes
    finally:
        if not gone(parent.pid):
            os.killpg(parent.pid, signal.SIGKILL)
    done = journal.read_text().count("\n")
    assert [p.name for p in checkpoint.saved(out / "checkpoints")] == [f"step-{done:08d}.pt"]


def test_a_killed_process_ends_the_others(tmp_path: Path) -> None:
    # as the kernel kills where memory is short: the sleeper's 300 s are not waited for
    script = tmp_path / "die.py"
    script.write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    others = set(multiprocessing.active_children())
    jobs = [
        Job("sleeper", tmp_path / "a", partial(time.sleep, 300)),
        write(tmp_path / "quick"),
        # in a process that is there already: the pool hears of the end of one just started only at its next event
        Job("killed", tmp_path / "b", partial(runpy.run_path, str(script)), ("quick",)),
    ]
    before, began = signal.getsignal(signal.SIGTERM), time.monotonic()
    with pytest.raises(BrokenProcessPool):
        run(jobs, 2)
    assert time.monotonic() - began < 60
    assert set(multiprocessing.active_children()) <= others
    assert signal.getsignal(signal.SIGTERM) == before


def test_order_resume_threads_and_errors(tmp_path: Path) -> None:
    before = os.environ.get("OMP_NUM_THREADS")
    seen: list[tuple[int, int, str]] = []
    (tmp_path / "there").write_text("kept")
    threads = Job("threads", tmp_path / "threads", partial(os.getenv, "OMP_NUM_THREADS"))
    broken = Job("broken", tmp_path / "broken", partial(read_labels, tmp_path / "none.csv", ["a"]), ("second",))
    jobs = [
        write(tmp_path / "second", ("first",)),
        write(tmp_path / "there"),
        write(tmp_path / "first"),
        threads,
        broken,
    ]
    # an error of a job arrives as itself, after what could be done
    with pytest.raises(RequestError, match="no such file of labels"):
        run(jobs, 1, lambda *line: seen.append(line))
    assert seen == [(1, 5, ""), (2, 5, "first"), (3, 5, "second"), (4, 5, "threads")]
    assert (tmp_path / "there").read_text() == "kept"
    assert os.environ.get("OMP_NUM_THREADS") == before
    seen.clear()
    run(jobs[:3], 1, lambda *line: seen.append(line))
    assert seen == [(3, 3, "")]
