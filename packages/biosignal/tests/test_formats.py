"""One file into one table: what a signal does to a read."""

import os
import signal
import threading

import numpy as np

from unlabeled.biosignal.formats import load
from unlabeled.biosignal.options import ReaderOptions


def test_a_file_that_is_read_while_ctrl_c_comes_is_no_bad_file(tmp_path):
    """A run that is asked to end goes on to its next step; Arrow, left to itself, breaks off the read in hand."""
    rows = 150_000
    path = tmp_path / "long.csv"
    path.write_text("time,acc_x\n" + "".join(f"{i / 100},{i % 7}\n" for i in range(rows)))
    asked, done = [], threading.Event()

    def press() -> None:
        while not done.wait(0.002):
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, lambda *_: asked.append(1))
    thread = threading.Thread(target=press)
    thread.start()
    try:
        tables = [load(path, path.name, ReaderOptions()) for _ in range(3)]
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGINT, before)
    assert len(asked) > 10
    assert all(t.values.shape == (1, rows) and np.isfinite(t.values).all() for t in tables)
