"""One row, measured: the numbers and all that is needed to judge them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from typing import Any

import torch
from learning.stamp import stamp

from bench.apart import apart
from bench.report import about
from bench.rows import row
from bench.timing import in_turns

VERSIONS = ("lightly", "numpy", "timm", "torch", "torchvision", "unlabeled-core")


def measured(name: str, threads: int | None = None, cpu: bool = False, tiny: bool = False) -> dict[str, Any]:
    """name, ours, peer (both medians, or None), ratio (ours / peer, below 1 is ahead), n, and what is needed to judge them."""
    known = row(name)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    gpu = torch.cuda.is_available() and not cpu and known.measure is None
    device = torch.device("cuda" if gpu else "cpu")
    base = about(name) | stamp() | {"threads": torch.get_num_threads(), "tiny": tiny, "versions": _versions()}
    base["device"] = _device(device)
    if known.measure is not None:
        found = known.measure(tiny)
        return base | {"ours": found["ours"], "peer": None, "ratio": None, "n": found["n"], "also": found["also"]}
    sides = (apart(name, side, device, tiny, torch.get_num_threads()) for side in (0, 1))
    turns = in_turns(*sides, 2 if tiny else known.turns)
    own, other = map(statistics.median, turns)
    every = {side: [round(s, 5) for s in turn] for side, turn in zip(("ours", "peer"), turns, strict=True)}
    return base | {"ours": own, "peer": other, "ratio": own / other, "n": len(turns[0]), "turns": every}


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{os.cpu_count()} CPU cores, {platform.machine().replace('_', '-')}"


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in VERSIONS} | {"python": platform.python_version()}
