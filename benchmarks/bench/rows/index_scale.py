"""Ten million windows: what the index of a large corpus takes before the first batch, in a process of its own."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bench.row import Row
from unlabeled.core.contracts import Domain, InputSpec, Sample
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.data.manifest import Manifest
from unlabeled.core.data.manifest import Row as Record

RECORDS, CELLS, WINDOW, BATCH = 10_000, 2048, 64, 256  # 32 x 32 windows of each record
LIMITS = {"s": 2.0, "MB": 500.0}
FACTS = {
    "layout": "dense",
    "channels": ["grey"],
    "units": [""],
    "unit": "px",
    "spacing": [1.0, 1.0],
    "shape": [CELLS, CELLS],
    "whole": True,
    "source": "",
}


class Options(BaseModel):
    pass


class Reader:
    """Reads nothing: the index is made of the manifest alone."""

    def __init__(self, options: Options, root: Path) -> None:
        pass

    def files(self, root: Path) -> list[Path]:
        return []

    def read(self, path: Path) -> Iterable[Sample]:
        raise AssertionError(f"{path} was read, but the manifest says all")


DOMAIN = Domain("scale", "Scale", "an index alone", f"{__name__}:Reader", f"{__name__}:Options", ("y", "x"))


def manifest(records: int) -> Manifest:
    rows = []
    for i in range(records):
        known = {"key": f"scene-{i:05}", "file": f"scene-{i:05}.tif", "group": f"{i // 10:016x}", "sha256": f"{i:064x}"}
        rows.append(Record(**known, part=0, status="ok", reason="", flags=(), inputs={"x": FACTS}))
    return Manifest(tuple(rows))


def start(file: Path) -> dict[str, float]:
    """From the manifest on disk to the ids of the first batch: seconds, MB more than the imports took, and those."""
    from unlabeled.core.data.corpus import Corpus
    from unlabeled.core.data.groups import codes
    from unlabeled.core.data.items import cut
    from unlabeled.core.data.loading import Loader
    from unlabeled.core.data.plans import Uniform

    before, began = resident(), time.perf_counter()
    known = {k: v for k, v in FACTS.items() if k in ("layout", "channels", "units", "unit", "spacing")}
    specs = {"x": InputSpec(**known, axes=DOMAIN.axes)}
    corpus = Corpus(DOMAIN, Data(path=file.parent), Manifest.load(file), specs)
    items = cut(corpus, (WINDOW, WINDOW))
    plan = Uniform(len(items), BATCH)
    Loader(items, specs, plan, seed=0, groups=codes(corpus.groups))
    first = plan(0, 0)[0]
    seconds = time.perf_counter() - began
    assert len(first) == BATCH
    return {"s": seconds, "MB": peak() - before, "imports_MB": before, "items": len(items)}


def resident() -> float:
    """MB of memory that this process holds."""
    return _status("VmRSS")


def peak() -> float:
    return _status("VmHWM")


def _status(name: str) -> float:
    line = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith(name))
    return int(line.split()[1]) / 1024


def measure(tiny: bool) -> dict[str, Any]:
    """The median of fresh processes, each of which imports everything before its clock begins."""
    turns = 2 if tiny else 5
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "manifest.parquet"
        manifest(50 if tiny else RECORDS).save(file)
        call = (
            f"import json, pathlib; from {__name__} import start; print(json.dumps(start(pathlib.Path({str(file)!r}))))"
        )
        found = [
            json.loads(subprocess.run([sys.executable, "-c", call], stdout=subprocess.PIPE, check=True).stdout)
            for _ in range(turns)
        ]
    middle = {unit: statistics.median(turn[unit] for turn in found) for unit in ("s", "MB")}
    return {"ours": middle["s"], "also": {"MB": middle["MB"]}, "n": turns}


ROW = Row(
    what=f"The index of {RECORDS * (CELLS // WINDOW) ** 2:,} windows of {RECORDS:,} records: from the manifest on disk to the ids "
    "of the first batch, in a fresh process. MB: the most it ever held, beyond what its imports (torch) hold.",
    difference="No peer. No pixel is read: what a window holds is read when its batch is.",
    measure=measure,
    limits=LIMITS,
)
