"""scikit-learn's digits: 1,797 images of 8 x 8 pixels, split by the form they were written on.

The images lie in the order of 14 forms of about 130 digits each, one writer a form; who wrote which is not in the file
(13 people, says the data's description, so one of them may have filled two). The forms are told by their printed sequence
of digits, and FORMS holds the first image of each. A split keeps forms whole, so that a hand is on one side only, but for
that one writer. No two images are equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from unlabeled.core.contracts import Domain, Input, InputSpec, Sample
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import Draw, rng

Ids = NDArray[np.int64]

FORMS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667)
IMAGES, SIDE, CLASSES, WHITE = 1797, 8, 10, 16.0

DOMAIN = Domain(
    name="digits",
    title="Digits",
    summary="8 x 8 images of handwritten digits",
    reader="",
    options="",
    axes=("y", "x"),
    views={name: f"learning.digits:{name}" for name in ("affine", "contrast", "noise", "zoom")},
)


@dataclass(frozen=True)
class Split:
    """Image numbers: pool (unlabelled, and where labels are drawn from) and test."""

    pool: Ids
    test: Ids


def split(test_forms: int, validation_forms: int, seed: int, validate: bool = False) -> Split:
    """Forms by lot. To choose settings, `validate` leaves the test forms out altogether and tests on others of the pool."""
    order = rng(seed, "forms").permutation(len(FORMS))
    test, rest = order[:test_forms], order[test_forms:]
    if validate:
        test, rest = rest[:validation_forms], rest[validation_forms:]
    form = form_of(np.arange(IMAGES))
    return Split(*(np.flatnonzero(np.isin(form, part)) for part in (rest, test)))


def form_of(images: Ids) -> Ids:
    return np.searchsorted(FORMS, images, side="right") - 1


def label_draws(labels: Ids, pool: Ids, per_class: int, draws: int, seed: int) -> list[Ids]:
    """`draws` sets of image numbers of the pool, `per_class` of each class, the same for every start."""
    found = []
    for number in range(draws):
        lot = rng(seed, "labels", number)
        parts = [lot.choice(pool[labels[pool] == c], per_class, replace=False) for c in range(CLASSES)]
        found.append(np.sort(np.concatenate(parts)))
    return found


class Digits:
    """The given images as items; what a loader and `embed` draw from. Values are grey levels over `scale`, so paper is 0.

    With a scale of 1 they are whole numbers from 0 to 16, which an encoder with a vocabulary takes as ids.
    """

    def __init__(self, images: Ids, scale: float) -> None:
        self.record, self.scale = images, scale

    def __len__(self) -> int:
        return len(self.record)

    def sample(self, i: int) -> Sample:
        return self._samples[i]

    @cached_property
    def _samples(self) -> list[Sample]:
        grey = (load_digits().images[self.record] / self.scale).astype(np.float32)
        return [
            Sample(
                {"x": Input(g[None], ("grey",), ("",), unit="px", spacing=(1.0, 1.0))},
                key=f"digit-{number}",
                group=f"form-{form}",
                index=i,
                record=int(number),
            )
            for i, (g, number, form) in enumerate(zip(grey, self.record, form_of(self.record), strict=True))
        ]


SPECS = {"x": InputSpec.of(Digits(np.arange(1), WHITE).sample(0).inputs["x"], axes=("y", "x"))}


def scale_of(pool: Ids) -> float:
    """Standard deviation of the pool's grey levels: one scale without an offset, so that paper stays 0."""
    return float(load_digits().images[pool].std())


# views: what changes no digit. No flips: a mirrored 2 is no digit.


def affine(
    x: Dense,
    draw: Draw,
    spec: InputSpec,
    shift: float = 1.0,
    degrees: float = 15.0,
    scale: float = 0.15,
    shear: float = 0.0,
) -> Dense:
    """Move by up to `shift` pixels each way, turn, zoom by up to 1 + scale or its inverse, and slant; paper comes in."""
    u = 2 * draw.uniform("affine", 5) - 1
    angle, zoom, slant = math.radians(degrees) * u[:, 0], (1 + scale) ** u[:, 1], shear * u[:, 2]
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    move = u[:, 3:] * shift * 2 / torch.tensor(x.values.shape[:1:-1])  # pixels in units of half the side
    rows = [torch.stack([cos, slant * cos - sin, move[:, 0]], 1), torch.stack([sin, slant * sin + cos, move[:, 1]], 1)]
    return replace(x, values=_sampled(x.values, torch.stack(rows, 1), x.values.shape))


def zoom(x: Dense, draw: Draw, spec: InputSpec, size: int = 4, out: int = 4) -> Dense:
    """A square of `size` pixels from anywhere in the image, drawn with `out` pixels: the small crop of multi-crop."""
    share = torch.tensor([size / n for n in x.values.shape[:1:-1]])
    middle = (2 * draw.uniform("zoom", 2) - 1) * (1 - share)
    zero = torch.zeros(x.size)
    rows = [
        torch.stack([share[0] + zero, zero, middle[:, 0]], 1),
        torch.stack([zero, share[1] + zero, middle[:, 1]], 1),
    ]
    values = _sampled(x.values, torch.stack(rows, 1), (*x.values.shape[:2], out, out))
    return replace(x, values=values, valid=torch.ones(x.size, 1, out, out, dtype=torch.bool))


def _sampled(values: torch.Tensor, theta: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    grid = F.affine_grid(theta.to(values.dtype), list(shape), align_corners=False)
    return F.grid_sample(values, grid, align_corners=False)


def contrast(x: Dense, draw: Draw, spec: InputSpec, amount: float = 0.2) -> Dense:
    """Darker or lighter ink, by up to `amount`."""
    return replace(x, values=x.values * (1 + amount * (2 * draw.uniform("contrast", 1, 1, 1) - 1)))


def noise(x: Dense, draw: Draw, spec: InputSpec, amount: float = 0.1) -> Dense:
    """Independent normal noise of this deviation."""
    return replace(x, values=x.values + amount * draw.normal("noise", *x.values.shape[1:]))
