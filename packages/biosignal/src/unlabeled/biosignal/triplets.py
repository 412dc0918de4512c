"""Three channels that are one vector: acc_x, acc_y, acc_z."""

from __future__ import annotations

import re
from collections.abc import Sequence

_AXIS = re.compile(r"^((?:.*_)?(acc|gyro))_([xyz])$")


def triplets(channels: Sequence[str], *kinds: str) -> dict[str, tuple[int, int, int]]:
    """Positions of x, y, z of every complete triplet, by its name without the axis.

    kinds: `acc`, `gyro`; none: both. `left_acc_x` belongs to the triplet `left_acc` of kind `acc`.
    """
    at: dict[str, dict[str, int]] = {}
    for i, channel in enumerate(channels):
        found = _AXIS.match(channel)
        if found and (not kinds or found[2] in kinds):
            at.setdefault(found[1], {})[found[3]] = i
    return {name: (axes["x"], axes["y"], axes["z"]) for name, axes in at.items() if len(axes) == 3}
