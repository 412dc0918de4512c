"""kill -9 anywhere: the resumed run's weights, optimiser and losses equal the uninterrupted run's to the bit.

Each run has 20 steps in epochs of 8, saved at 5, 10, 15 and 20, with two saves kept. Killed are real processes, by
SIGKILL to themselves, with $TMPDIR on another mount than the run where the machine has one.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM
from typing import Any

import pytest

from unlabeled.core.testing.toys import identical, lines
from unlabeled.core.training import checkpoint

SAVE_EVERY, STEPS = 5, 20
METHODS = ["Denoiser", "Distiller"]  # one plain; one with batch norm, an EMA teacher and a queue


class Runner:
    """Runs jobs in forks of one warm process."""

    def __init__(self, tmpdir: Path) -> None:
        self.tmpdir = tmpdir
        env = os.environ | {"TMPDIR": str(tmpdir), "OMP_NUM_THREADS": "1"}
        script = [sys.executable, str(Path(__file__).with_name("killed.py"))]
        self.process = subprocess.Popen(script, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, run: Path, method: str, **more: Any) -> int:
        """Exit code; -9 where the run was killed."""
        assert self.process.stdin is not None and self.process.stdout is not None
        job: dict[str, Any] = {
            "run": str(run),
            "method": method,
            "journal": f"{run}.journal",
            "steps": STEPS,
            "resume": True,
        } | more
        job["trainer"] = {"save_every": SAVE_EVERY, "keep": 2} | job.get("trainer", {})
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    shared_memory = Path("/dev/shm")
    there = shared_memory.is_dir() and os.access(shared_memory, os.W_OK)
    with tempfile.TemporaryDirectory(dir=shared_memory if there else None) as tmpdir:
        runner = Runner(Path(tmpdir))
        with runner.process as process:
            yield runner
            assert process.stdin is not None
            process.stdin.close()
            assert process.wait(10) == 0
        # no save has passed through $TMPDIR, where torch itself makes a folder for compiled kernels
        assert [p for p in Path(tmpdir).rglob("*") if p.is_file()] == []


def assert_exact(run: Path, whole: Path, *, restarts: int) -> None:
    """`run`, restarted `restarts` times, ended as `whole` did, and saw its data as `whole` did."""
    assert lines(run) == lines(whole)
    mine, theirs = (checkpoint.newest(r / "checkpoints") for r in (run, whole))
    assert mine is not None and mine["step"] == STEPS
    assert json.loads((run / "summary.json").read_text())["steps"] == STEPS
    assert identical(mine, theirs)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == [
        "step-00000015.pt",
        "step-00000020.pt",
    ]  # and no stray file
    seen: dict[int, tuple[int, list[int]]] = {}
    done = [json.loads(line) for line in Path(f"{run}.journal").read_text().splitlines()]
    for step, epoch, items in done:
        assert seen.setdefault(step, (epoch, items)) == (epoch, items)  # a step done again sees the same items
    assert sorted(seen) == list(range(STEPS))
    by_epoch: dict[int, list[int]] = defaultdict(list)
    for epoch, items in seen.values():
        by_epoch[epoch] += items
    assert [len(by_epoch[e]) for e in sorted(by_epoch)] == [32, 32, 16]
    assert all(len(set(items)) == len(items) for items in by_epoch.values())  # no item twice in an epoch
    assert len(done) - STEPS <= restarts * SAVE_EVERY


@pytest.fixture(scope="module", params=METHODS)
def whole(request: pytest.FixtureRequest, runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run in a folder named after its method; its file operations are in `operations`."""
    folder = tmp_path_factory.mktemp("whole")
    run: Path = folder / request.param
    assert runner(run, run.name, record=str(folder / "operations")) == 0
    return run


def test_killed_before_during_and_after_every_file_operation(whole: Path, runner: Runner, tmp_path: Path) -> None:
    operations = (whole.parent / "operations").read_text().splitlines()
    # a save: fsync of the metrics, write, fsync of the temp file, replace, fsync of the folder, unlink of the temp
    # name (gone by then); and the unlink of the oldest save from the third on. At the end the summary, in the same way
    one = ["fsync", "write", "fsync", "replace", "fsync", "unlink"]
    assert operations == one * 2 + [*one, "unlink"] * 2 + ["fsync", "replace", "fsync", "unlink"]
    cases = [(n, when) for n in range(len(operations)) for when in ("before", "after")]
    cases += [(n, "during") for n, name in enumerate(operations) if name == "write"]
    assert len(cases) == 2 * 30 + 4
    for n, when in cases:
        run = tmp_path / f"{when}-{n}-{operations[n]}"
        assert runner(run, whole.name, kill=[n, when]) == -9, run.name
        assert runner(run, whole.name) == 0, run.name
        assert_exact(run, whole, restarts=1)


@pytest.mark.parametrize("step", [2, 8, 13])
@pytest.mark.parametrize("change", ["nothing", "workers", "loop"])
def test_killed_between_saves(whole: Path, runner: Runner, tmp_path: Path, step: int, change: str) -> None:
    # 2: before the first save; 8: the first step of the second epoch; 13: in its middle
    changes: dict[str, dict[str, Any]] = {
        "nothing": {},
        "workers": {"workers": 2},
        "loop": {"trainer": {"loop": "lightning"}},
    }
    resumed = changes[change]
    run = tmp_path / "run"
    assert runner(run, whole.name, kill=["step", step, SIGKILL]) == -9
    assert runner(run, whole.name, **resumed) == 0
    assert_exact(run, whole, restarts=1)


def test_killed_again_and_again(whole: Path, runner: Runner, tmp_path: Path) -> None:
    # in every start another step or another operation, alternating loops, until nothing is left to kill
    run = tmp_path / "run"
    kills: list[list[Any]] = [
        *(["step", 1, SIGKILL], [1, "during"]),  # at 0: before the first save, and in it
        *(["step", 7, SIGKILL], [3, "before"]),  # at 5, and before the replace of the second save
        *(["step", 12, SIGKILL], [3, "after"]),  # at 10, and after the replace of the third
        [4, "after"],  # after the last save is safe: nothing is left to do
    ]
    for i, kill in enumerate(kills):
        loop = {"loop": ("plain", "lightning")[i % 2]}
        assert runner(run, whole.name, kill=kill, trainer=loop) == -9, kill
    assert runner(run, whole.name) == 0
    assert_exact(run, whole, restarts=len(kills))


@pytest.mark.parametrize("loop", ["plain", "lightning"])
@pytest.mark.parametrize(
    ("signals", "code", "redone"),
    [
        ([SIGTERM], 130, 0),  # saved at the end of the step
        ([SIGINT, SIGINT], -SIGINT, 4),  # the second ends the process at once, in step 8: 5, 6, 7 and 8 are redone
    ],
)
def test_interrupted(
    whole: Path, runner: Runner, tmp_path: Path, loop: str, signals: list[int], code: int, redone: int
) -> None:
    run = tmp_path / "run"
    assert runner(run, whole.name, kill=["step", 8, *signals], trainer={"loop": loop}) == code
    assert runner(run, whole.name) == 0
    assert_exact(run, whole, restarts=1)
    assert len(Path(f"{run}.journal").read_text().splitlines()) == STEPS + redone


def test_a_restart_that_forgot_its_state_would_be_noticed(whole: Path, runner: Runner, tmp_path: Path) -> None:
    # the comparison itself can fail: another dropout rate gives other weights
    assert runner(tmp_path / "run", whole.name, dropout=0.2) == 0
    with pytest.raises(AssertionError):
        assert_exact(tmp_path / "run", whole, restarts=0)
