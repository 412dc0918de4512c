"""Damaged captures: 2,000 seeded mutations here, as many as wanted by tools/fuzz_captures."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from .data.captures import files, zipped
from .data.mutations import checked, mutated, seeds

COMPILED = importlib.util.find_spec("numba") is not None


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_capture_gives_packets_and_counts_or_bad_input(tmp_path: Path, seed: int) -> None:
    """500 each: no other exception, numpy = numba, every frame counted, nothing read from outside of a frame."""
    made = files(tmp_path)
    pool = seeds([*made.values(), zipped(made["ns"]), zipped(made["pcapng many"])])
    rng, path = np.random.default_rng(seed), tmp_path / "damaged.pcap"
    bad = 0
    for _ in range(500):
        path.write_bytes(mutated(pool, rng))
        bad += bool(checked(path, tunnels=bool(rng.integers(4)), compiled=COMPILED))
    # of both kinds there are enough, so that neither check is empty
    assert 10 < bad < 250
