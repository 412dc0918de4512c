"""Named conversions of a recipe (`data.conversions`): explicit, logged, written into the contract."""

from __future__ import annotations

from typing import Literal

import numpy as np

from unlabeled.biosignal.triplets import triplets
from unlabeled.core.contracts import BadInput, RequestError, Sample

# Left and right wrist are mirror images in the plane normal to x. A polar vector (acceleration) changes its sign along
# the normal; an axial one (angular velocity) changes it within the plane.
SIGNS = {"acc": (-1.0, 1.0, 1.0), "gyro": (1.0, -1.0, -1.0)}


def mirror(sample: Sample, to: Literal["left", "right"] = "right") -> tuple[Sample, str | None]:
    """`sample` as the other wrist would have measured it, and a log line; unchanged where it is already `to`.

    Raises RequestError where `to` is neither left nor right, BadInput where the side is unknown or no accelerometer or
    gyroscope is complete.
    """
    if to not in ("left", "right"):
        raise RequestError(f"data.conversions mirror.to is {to!r}; write left or right")
    side = sample.meta.get("side")
    if side not in ("left", "right"):
        raise BadInput(
            f"{sample.key}: mirror needs the body side; add a column `side` (left or right) to recordings.csv, "
            "or leave the conversion out"
        )
    if side == to:
        return sample, None
    changed = {}
    for name, x in sample.inputs.items():
        signs = np.ones((len(x.channels), 1), np.float32)
        for kind, kind_signs in SIGNS.items():
            for at in triplets(x.channels, kind).values():
                signs[list(at), 0] = kind_signs
        if (signs < 0).any():
            changed[name] = x.with_(data=x.data * signs)
    if not changed:
        raise BadInput(
            f"{sample.key}: mirror found no complete acc_x, acc_y, acc_z or gyro_x, gyro_y, gyro_z; "
            "name the channels so or leave the conversion out"
        )
    return sample.map(**changed).with_(meta={**sample.meta, "side": to}), f"mirrored from the {side} to the {to} wrist"
