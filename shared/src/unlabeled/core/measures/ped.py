"""PED: a transfer score of features that have moved a little as fine-tuning would move them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.measures.logme import logme

Floats = NDArray[np.float64]

STEPS = 6
EXIT = 0.5  # of the first step's movement: a step that moves less is not taken
SAME = 1e-9  # of the radii: means nearer than that are one, and differ by rounding
SPREAD = 1e-3  # the least deviation of a feature that it is divided by


def ped(
    features: NDArray[np.floating],
    classes: NDArray[np.int64],
    score: Callable[[Floats, NDArray[np.int64]], float] = logme,
    size: float = 0.6,
    step: float = 0.1,
) -> float:
    """`score` of features (N, D) after their classes (N,) have pushed each other apart; more is better.

    Li, Hu, Ge, Shan and Duan 2023 (PED). Fine-tuning is taken for a motion that lowers a potential energy: a class is a ball
    around its mean with the radius `size` times its deviation (root of the sum over features of the variances), and balls
    that overlap repel each other like springs. Read from the authors' code, of which are the constants.

    Decided here: features are divided by their own deviation before they move, where the paper takes that of its pretraining
    data, which a bundle does not carry; and the score is LogME, where the authors' default is SFDA (they give both). Unlike
    their code, two classes of one mean do not turn everything into NaN: no direction is better than another, so they stay.

    The same for features times a number and, up to that division, for features plus a constant; not for rotated ones, since
    the division is by axes. Classes apart by more than their radii do not move, and PED is the score itself.
    """
    return score(moved(features, classes, size, step), classes)


def moved(features: NDArray[np.floating], classes: NDArray[np.int64], size: float = 0.6, step: float = 0.1) -> Floats:
    """The features after at most `STEPS` steps; every class moves as a whole."""
    x = np.asarray(features, np.float64)
    spread = x.std(0)
    spread = np.maximum(spread, SPREAD * spread.max() or 1.0)
    _, of = np.unique(classes, return_inverse=True)
    scaled = (x - x.mean(0)) / spread
    means = np.stack([scaled[of == c].mean(0) for c in range(of.max() + 1)])
    radii = np.array([size * np.sqrt(scaled[of == c].var(0).sum()) for c in range(len(means))])
    at, first = means, 0.0
    for number in range(STEPS):
        shift = pushed(at, radii, step)
        way = np.abs(shift).sum()
        first = first or way
        if way == 0 or (number and way <= EXIT * first):
            break
        at = at + shift
    return np.asarray(x + (at - means)[of] * spread)


def pushed(means: Floats, radii: Floats, step: float) -> Floats:
    """(K, D) way of every class in one step from rest: half the squared step times the force, the depth of the overlap."""
    away = means[:, None] - means
    distance = np.sqrt((away**2).sum(-1))
    reach = radii[:, None] + radii
    apart = distance > SAME * reach
    way = apart * min(0.5 * step**2, 1) * np.maximum(reach - distance, 0) / np.where(apart, distance, 1)
    return np.asarray((way[..., None] * away).sum(1))
