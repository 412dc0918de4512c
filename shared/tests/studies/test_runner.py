import multiprocessing
import os
import time
from functools import partial
from pathlib import Path

import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.evaluation.labels import read_labels
from unlabeled.core.studies.runner import Job, run


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
