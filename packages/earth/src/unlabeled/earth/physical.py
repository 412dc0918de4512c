"""Normalised values in physical terms: what multiplies power on the ground, done to values as a batch holds them.

A batch carries (v - offset) / scale and not the constants of each item's source. What is needed of them must be equal for
all sources of the contract, and else the request is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from unlabeled.core.contracts import InputSpec, RequestError

DECIBEL, AMPLITUDE, POWER = "dB", "amplitude", "power"
RADAR = (DECIBEL, AMPLITUDE, POWER)


def per_channel(spec: InputSpec, of: Callable[[float, float], float], who: str) -> list[float]:
    """`of(offset, scale)` for each channel; RequestError where it differs between sources."""
    identity = [[of(0.0, 1.0)] * spec.width]
    found = [[of(o, s) for o, s in zip(c.offset, c.scale, strict=True)] for c in spec.normaliser.constants.values()]
    first, *others = found or identity
    if any(not math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for o in others for a, b in zip(first, o, strict=True)):
        raise RequestError(
            f"{who} works in physical units, and the normaliser scales the sources "
            f"{', '.join(sorted(spec.normaliser.constants))} differently; set data.normaliser to none or to fixed constants"
        )
    return first


def zeros(spec: InputSpec, who: str) -> list[float]:
    """What v + zero is proportional to the physical value, by channel."""
    return per_channel(spec, lambda offset, scale: offset / scale, who)


def times(values: Tensor, log_factor: Tensor, spec: InputSpec, who: str) -> Tensor:
    """Normalised values (B, C, H, W) of what was there, with its power times exp(log_factor).

    log_factor (B, 1 | C, 1 | H, 1 | W). Decibels get 10 / ln(10) log_factor more, an amplitude is multiplied by the root,
    everything else (power, reflectance) by the factor. Raises RequestError where sources are scaled differently.
    """
    in_db = [unit == DECIBEL for unit in spec.units]
    scales = per_channel(spec, lambda _, scale: scale, who) if any(in_db) else []
    shifts = zeros(spec, who) if not all(in_db) else []
    out = []
    for i in range(values.shape[1]):  # Python numbers: a tensor of them would be a copy to the device each step
        v = values.narrow(1, i, 1)
        log = log_factor.narrow(1, min(i, log_factor.shape[1] - 1), 1).to(v.dtype)
        if in_db[i]:
            out.append(v + log * (10 / math.log(10) / scales[i]))
        else:
            more = torch.expm1(0.5 * log if spec.units[i] == AMPLITUDE else log)
            out.append(v + (v + shifts[i]) * more)
    return torch.cat(out, 1)
