"""Keyed random streams: every draw is a pure function of what it is for.

Per-item draws are keyed by (seed, epoch, item, name), shared draws by (seed, step, name). Rank and worker are in no
key, so another worker count, another rank count and a resumed run see the same data, masks and views.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_MASK = (1 << 64) - 1
# splitmix64 (Steele, Lea, Flood 2014): increment and the two multipliers of its finaliser
_GAMMA, _M1, _M2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def key(seed: int, *parts: int | str) -> int:
    """A 64-bit key of the seed and the parts; stable over machines and Python versions."""
    text = "\x1f".join([str(seed), *(f"{type(p).__name__}:{p}" for p in parts)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def rng(seed: int, *parts: int | str) -> np.random.Generator:
    """A NumPy generator for a shared draw on the host (plans, splits, label draws)."""
    return np.random.Generator(np.random.Philox(key=key(seed, *parts)))


def generator(seed: int, *parts: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """A torch generator for a shared draw (initial weights, shared projections)."""
    g = torch.Generator(device=device)
    g.manual_seed(key(seed, *parts) & (_MASK >> 1))
    return g


def _signed(x: int) -> int:
    x &= _MASK
    return x - (1 << 64) if x >> 63 else x


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64: products wrap as in C, shifts are made logical by masking the sign's copies."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(_M1)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(_M2)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def uniform(stream: int, items: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, *shape) float32 in [0, 1), on any device.

    An element depends on `stream`, its item and its index along each axis, and never on `shape`: an item has the same
    draws alone and in a batch that is padded to a larger grid. items: (B,) int64.
    """
    bits = _mix(items.to(torch.int64) * _signed(_GAMMA) + _signed(stream))
    for n in shape or (1,):
        counter = torch.arange(1, n + 1, device=items.device, dtype=torch.int64) * _signed(_GAMMA)
        bits = _mix(bits[..., None] + counter)
    # 24 bits, the mantissa of float32: every value is exact and below 1
    return ((bits >> 40) & ((1 << 24) - 1)).to(torch.float32).mul(2.0**-24).reshape(len(items), *shape)


def normal(stream: int, items: Tensor, shape: Sequence[int]) -> Tensor:
    """(B, *shape) float32 standard normal (Box and Muller), keyed as `uniform`."""
    u = uniform(stream, items, (2, *shape))
    radius = torch.sqrt(-2.0 * torch.log(1.0 - u[:, 0]))
    return radius * torch.cos(2.0 * math.pi * u[:, 1])


@dataclass(frozen=True)
class Draw:
    """Per-item draws of one batch: `draw.uniform("rotate", 3)` gives (B, 3).

    items: (B,) int64 item ids on the batch's device. `scope` separates views of one item.
    """

    seed: int
    epoch: int
    items: Tensor
    scope: str = ""

    def within(self, scope: str) -> Draw:
        return Draw(self.seed, self.epoch, self.items, f"{self.scope}/{scope}")

    def uniform(self, name: str, *shape: int) -> Tensor:
        return uniform(key(self.seed, self.epoch, f"{self.scope}/{name}"), self.items, shape)

    def normal(self, name: str, *shape: int) -> Tensor:
        return normal(key(self.seed, self.epoch, f"{self.scope}/{name}"), self.items, shape)
