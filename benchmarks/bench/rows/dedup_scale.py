"""A million hashes grouped, in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from typing import Any

from bench.row import Row
from bench.rows.dedup import DISTANCE, hashes
from bench.rows.index_scale import peak, resident
from unlabeled.core.curate.groups import grouped

LIMITS = {"s": 60.0, "MB": 2048.0}


def start(n: int) -> dict[str, float]:
    """Seconds, and MB more than the imports and the hashes took."""
    values = hashes(n)
    before, began = resident(), time.perf_counter()
    labels = grouped(values, DISTANCE)
    seconds = time.perf_counter() - began
    assert len(labels) == len(values)
    return {"s": seconds, "MB": peak() - before}


def measure(tiny: bool) -> dict[str, Any]:
    """The median of fresh processes."""
    turns = 2 if tiny else 5
    call = f"import json; from {__name__} import start; print(json.dumps(start({20_000 if tiny else 1_000_000})))"
    found = [
        json.loads(subprocess.run([sys.executable, "-c", call], stdout=subprocess.PIPE, check=True).stdout)
        for _ in range(turns)
    ]
    middle = {unit: statistics.median(turn[unit] for turn in found) for unit in LIMITS}
    return {"ours": middle["s"], "also": {"MB": middle["MB"]}, "n": turns}


ROW = Row(
    what="A million hashes of 64 bits grouped by links of at most 6 bits, in a fresh process. MB: the most it ever held, beyond its "
    "imports and the hashes.",
    difference="No peer: all pairs of a million take hours.",
    measure=measure,
    limits=LIMITS,
)
