"""What a row is: two callables that do the same work, or one measurement without a peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

# Does the work once, to its end.
Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One file of `rows` holds one as ROW; its name is the file's, with `-` for `_`.

    what           one sentence: the work, its sizes
    peer_name      what does the other work, and how; "" where there is none
    like_for_like  both sides do the same maths on the same shapes; False is never quoted as a speed-up
    difference     what differs where that is not obvious (another optimiser kind, an update more), for the README
    target         the ratio, on 2 CPU cores, above which something is wrong; None where there is none
    make           (device, tiny) -> (ours, peer); `tiny` shrinks the work to a test of the harness
    measure        (tiny) -> {"ours": number, "also": {unit: number}}: a row that times itself, without a peer
    unit           of `ours` and `peer`
    limits         unit -> the most that a row without a peer may take
    turns          timed pairs
    """

    what: str
    peer_name: str = ""
    like_for_like: bool = False
    difference: str = ""
    target: float | None = None
    make: Callable[[torch.device, bool], tuple[Work, Work]] | None = None
    measure: Callable[[bool], dict[str, Any]] | None = None
    unit: str = "s"
    limits: dict[str, float] = field(default_factory=dict)
    turns: int = 13
