"""Ten million packets from a capture to shards of flows, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import traffic
from bench.row import Row

PACKETS, FLOWS = 10_000_000, 400_000
LIMITS = {"s": 120.0, "MB": 2048.0}
# The bench imports torch, which this does not need: so it is no function of the bench.
ALONE = """
import json, sys, time
begin = time.perf_counter()
from pathlib import Path
from unlabeled.network.flow import shards
from unlabeled.network.options import ReaderOptions
manifest = {"captures": {}}
shards.shard(Path(sys.argv[1]), "lot", Path(sys.argv[2]), ReaderOptions(), manifest)
seconds = time.perf_counter() - begin
peak = next(s for s in Path("/proc/self/status").read_text().splitlines() if s.startswith("VmHWM"))
print(json.dumps(manifest["captures"]["lot"] | {"s": seconds, "MB": int(peak.split()[1]) / 1024}))
"""


def measure(tiny: bool) -> dict[str, Any]:
    """One fresh process, after one that wrote the capture."""
    from unlabeled.network.flow import shards

    with tempfile.TemporaryDirectory() as folder:
        capture, to = Path(folder) / "lot.pcap", Path(folder) / "out"
        to.mkdir()
        packets = 20_000 if tiny else PACKETS
        traffic.write(capture, packets, packets * FLOWS // PACKETS, payload=40)
        words = [sys.executable, "-c", ALONE, str(capture), str(to)]
        found = json.loads(subprocess.run(words, stdout=subprocess.PIPE, check=True).stdout)
        made = [shards.open_shard(to / name) for name in found["shards"]]
        assert sum(int(f.packets.sum()) for f in made) == found["counts"]["packets"] == packets
        assert sum(map(len, made)) == found["counts"]["flows"]
    return {"ours": found["s"], "also": {"MB": found["MB"]}, "n": 2 if tiny else 1}


ROW = Row(
    what=f"A capture of {PACKETS:,} packets and {FLOWS:,} ends to shards of flows, in a fresh process, its imports and what is "
    "compiled included. MB: the most that process ever held, all told.",
    difference="No peer: dpkt and a dictionary that keeps the packets take minutes, and more memory.",
    measure=measure,
    limits=LIMITS,
)
