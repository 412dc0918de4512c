"""Whether a resumed run equals an uninterrupted one to the bit: it does where both parts ran under equal conditions."""

from __future__ import annotations

import logging
from typing import Any

import torch

from unlabeled.core import ranks

log = logging.getLogger(__name__)

Conditions = dict[str, int | str]


def conditions(device: torch.device) -> Conditions:
    """What sets the order of sums: threads, ranks, the device and torch itself."""
    return {
        "threads": torch.get_num_threads(),
        "ranks": ranks.world(),
        "device": device.type,
        "torch": str(torch.__version__),
    }


def _named(name: str, value: int | str) -> str:
    return f"{value} {name if value != 1 else name[:-1]}" if isinstance(value, int) else f"{name} {value}"


def report(state: dict[str, Any], now: Conditions) -> None:
    """Log one line: whether going on from `state` under the conditions `now` is exact, or why not."""
    start = f"resuming after step {state['step']}"
    before: Conditions | None = state.get("conditions")
    if before is None:
        log.warning("%s: unknown whether exact, since the checkpoint does not say under what it was saved", start)
        return
    changes = [
        f"it was saved with {_named(name, before[name])} and goes on with {_named(name, value)}"
        for name, value in now.items()
        if before[name] != value
    ]
    if changes:
        log.warning("%s: not exact, since %s", start, "; ".join(changes))
    elif now["device"] == "cpu":
        log.info("%s: exact", start)
    else:  # deterministic algorithms are asked for on the CPU only
        log.info("%s: exact up to the order of sums on the device", start)
