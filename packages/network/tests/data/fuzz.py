"""The command tools/fuzz_captures."""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from .captures import files, zipped
from .mutations import checked, mutated, seeds


def main() -> int:
    """Prints how many were read and refused. 1, and the damaged capture is kept, where a check fails."""
    parser = argparse.ArgumentParser(prog="tools/fuzz_captures", description=__doc__)
    parser.add_argument("--n", type=int, default=100_000, help="damaged captures")
    parser.add_argument("--seed", type=int, default=0)
    words = parser.parse_args()
    compiled = importlib.util.find_spec("numba") is not None
    said, began = Counter[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        made = files(Path(folder))
        pool = seeds([*made.values(), zipped(made["ns"]), zipped(made["pcapng many"])])
        path = Path(folder) / "damaged.pcap"
        for i in range(words.n):
            rng = np.random.default_rng((words.seed, i))
            path.write_bytes(mutated(pool, rng))
            try:
                said["refused" if checked(path, bool(rng.integers(4)), compiled) else "read"] += 1
            except Exception as error:
                kept = Path(f"fuzz-{words.seed}-{i}.pcap")
                kept.write_bytes(path.read_bytes())
                print(
                    f"capture {i} of seed {words.seed}: {type(error).__name__}: {error}; kept as {kept}",
                    file=sys.stderr,
                )
                return 1
    print(f"{words.n} damaged captures, seed {words.seed}: {said['read']} read, {said['refused']} refused, ", end="")
    print(f"none against the rules; {time.monotonic() - began:.0f} s, {'numpy and numba' if compiled else 'numpy'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
