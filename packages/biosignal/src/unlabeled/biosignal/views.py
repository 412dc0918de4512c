"""Augmentations that are true for a worn sensor: (x, draw, spec, **options) -> x, per item, on the device.

Every draw is keyed by item, so a view does not depend on the rest of the batch. What is invalid stays invalid and 0.
Shapes: B items, C channels, T samples.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from unlabeled.biosignal.triplets import triplets
from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import Draw


def _samples(seconds: float, spec: InputSpec, view: str) -> int:
    if spec.spacing is None:
        raise RequestError(f"the view {view} needs one sampling rate for all items; resample the files to one rate")
    n = round(seconds / spec.spacing[0])
    if n < 1:
        raise RequestError(f"{view}.seconds {seconds:g} is less than one sample; make it longer")
    return n


def _long_enough(x: Dense, needed: int, spec: InputSpec, what: str) -> None:
    have = x.values.shape[-1]
    if have < needed:
        assert spec.spacing is not None
        step = spec.spacing[0]
        raise RequestError(
            f"{what} needs items of {needed * step:g} s or more, these have {have * step:g} s; set data.window higher"
        )


def _with_values(x: Dense, values: Tensor, valid: Tensor | None = None) -> Dense:
    valid = x.valid if valid is None else valid
    return replace(x, values=torch.where(valid, values, 0), valid=valid)


def crop(x: Dense, draw: Draw, spec: InputSpec, *, seconds: float, warp: float = 0.2) -> Dense:
    """A random stretch of time, resampled linearly to `seconds`: (B, C, T) -> (B, C, round(seconds * rate)).

    The stretch lasts (1 + w) * seconds with w uniform in [-warp, warp], so 2 Hz become 2 (1 + w) Hz. It lies between
    the item's first and last valid sample where it fits; a position is valid where both its neighbours are.
    """
    if not 0 <= warp < 1:
        raise RequestError(f"crop.warp is {warp:g} and must lie in 0 to 1, without 1")
    n = _samples(seconds, spec, "crop")
    _long_enough(x, math.ceil((n - 1) * (1 + warp)) + 1, spec, f"crop of {seconds:g} s with warp {warp:g}")
    T = x.values.shape[-1]
    pace = 1 + warp * (2 * draw.uniform("warp") - 1)
    span = (n - 1) * pace
    seen = x.valid.any(1).to(torch.uint8)
    first = seen.argmax(1)
    last = T - 1 - seen.flip(1).argmax(1)
    start = first + draw.uniform("start") * (last - first - span).clamp_min(0)
    start = torch.minimum(start, T - 1 - span)
    # whole samples and the rest apart: float32 then stays exact to 1e-5 samples in items of any length
    whole = start.floor()
    rest = (start - whole)[:, None] + pace[:, None] * torch.arange(n, device=x.values.device)
    low = (whole[:, None] + rest.floor()).long().clamp(0, T - 1)
    high = (low + 1).clamp_max(T - 1)
    part = (rest - rest.floor())[:, None].to(x.values.dtype)

    def take(a: Tensor, at: Tensor) -> Tensor:
        return a.gather(2, at[:, None].expand(-1, a.shape[1], -1))

    values = torch.lerp(take(x.values, low), take(x.values, high), part)
    return _with_values(x, values, take(x.valid, low) & take(x.valid, high))


def centre(x: Dense, draw: Draw, spec: InputSpec, *, seconds: float) -> Dense:
    """The middle `seconds` of each item, unwarped."""
    n = _samples(seconds, spec, "centre")
    _long_enough(x, n, spec, f"centre of {seconds:g} s")
    start = (x.values.shape[-1] - n) // 2
    return replace(x, values=x.values[..., start : start + n], valid=x.valid[..., start : start + n])


def rotate(x: Dense, draw: Draw, spec: InputSpec, *, degrees: float = 15.0) -> Dense:
    """The sensor strapped on at another angle: one rotation per item for every accelerometer and gyroscope.

    The axis is uniform on the sphere, the angle uniform in [-degrees, degrees] (Rodrigues' formula). A rotated vector
    is valid where all three of its channels are.
    """
    found = triplets(spec.channels)
    if not found:
        raise RequestError(
            "the view rotate found no complete acc_x, acc_y, acc_z or gyro_x, gyro_y, gyro_z; leave it out"
        )
    if spec.normaliser.method == "standard":
        raise RequestError("the view rotate needs one scale for each sensor; set data.normaliser: sensor")
    rotation = _rotations(draw, degrees, x.values.dtype)
    values = list(x.values.unbind(1))
    valid = list(x.valid.expand(-1, len(values), -1).unbind(1))
    for at in found.values():
        vector = torch.stack([values[i] for i in at], 1)
        whole = torch.stack([valid[i] for i in at], 1).all(1)
        # a sum of products and no matmul: the same bits in any batch, and never in the autocast's half precision
        for i, row in zip(at, (rotation[..., None] * vector[:, None]).sum(2).unbind(1), strict=True):
            values[i], valid[i] = row, whole
    return _with_values(x, torch.stack(values, 1), x.valid if x.valid.shape[1] == 1 else torch.stack(valid, 1))


def _rotations(draw: Draw, degrees: float, dtype: torch.dtype) -> Tensor:
    """(B, 3, 3): cos I + sin [a]x + (1 - cos) a a^T."""
    axis = torch.nn.functional.normalize(draw.normal("axis", 3).to(dtype), dim=1)
    angle = (2 * draw.uniform("angle").to(dtype) - 1) * math.radians(degrees)
    a, b, c = axis.unbind(1)
    zero = torch.zeros_like(a)
    cross = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], 1).reshape(-1, 3, 3)
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    return (
        cos * torch.eye(3, dtype=dtype, device=axis.device) + sin * cross + (1 - cos) * axis[:, :, None] * axis[:, None]
    )


def scale(x: Dense, draw: Draw, spec: InputSpec, *, amount: float = 0.1) -> Dense:
    """Each channel of each item times 1 + amount * N(0, 1) (Um et al. 2017)."""
    factor = 1 + amount * draw.normal("scale", x.values.shape[1], 1)
    return _with_values(x, x.values * factor.to(x.values.dtype))


def jitter(x: Dense, draw: Draw, spec: InputSpec, *, amount: float = 0.05) -> Dense:
    """White noise of deviation `amount`, in units of the normalised signal (Um et al. 2017)."""
    noise = draw.normal("jitter", *x.values.shape[1:])
    return _with_values(x, x.values + amount * noise.to(x.values.dtype))
