"""Speckle: the multiplicative noise of coherent images, as one more look at the same ground.

Power is multiplied by G ~ Gamma(L, 1 / L), of mean 1 and variance 1 / L, L being the number of looks (Oliver and Quegan
2004, Understanding Synthetic Aperture Radar Images, section 4.3). In decibels the mean is (10 / ln 10)(psi(L) - ln L).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from torch import Tensor

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.streams import Draw
from unlabeled.earth.physical import RADAR, times
from unlabeled.earth.views import with_values

REACH = 6.0  # beyond the largest normal that 24 bits can make, sqrt(-2 ln 2^-24) = 5.77
DEGREE = 24  # then ln G is right to 1e-6 for one look, and better for more


def speckle(x: Dense, draw: Draw, spec: InputSpec, *, looks: float = 4.0) -> Dense:
    """Every cell of every band with speckle of `looks` looks of its own: times G in power, sqrt(G) in amplitude.

    It comes on top of the speckle that is there, and neighbours are independent. Raises RequestError for other units than
    dB, power and amplitude, for less than one look, and where the normaliser has other constants for other sources.
    """
    if looks < 1:
        raise RequestError(f"speckle.looks is {looks:g}; a radar image has one look or more")
    for channel, unit in zip(spec.channels, spec.units, strict=True):
        if unit not in RADAR:
            raise RequestError(
                f"the view speckle is for {', '.join(RADAR)}, and {channel} is in {unit or 'no unit'}; leave it out, or say "
                "the unit under data.options.units"
            )
    log = log_gamma(draw.normal("speckle", *x.values.shape[1:]), looks)
    return with_values(x, times(x.values, log, spec, "the view speckle"))


def log_gamma(z: Tensor, looks: float) -> Tensor:
    """ln G, G ~ Gamma(L, 1 / L), from standard normals z: the quantile of G at the normal's own.

    As a Chebyshev series (Clenshaw's recurrence), which needs no special function of the device and no rejection.
    """
    first, *others = (float(c) for c in _series(looks))
    t = z / REACH
    a, b = torch.zeros_like(t), torch.zeros_like(t)
    for c in reversed(others):
        a, b = 2 * t * a - b + c, a
    return t * a - b + first


@lru_cache(maxsize=16)
def _series(looks: float) -> NDArray[np.float64]:
    """Chebyshev coefficients of t -> ln G(L) at the normal quantile REACH * t, t in -1 to 1."""
    from scipy.special import gammainccinv, gammaincinv, ndtr

    t = chebyshev.chebpts1(DEGREE + 1)
    z = REACH * t
    # each tail from its own end, where it is exact
    g = np.where(z < 0, gammaincinv(looks, ndtr(z)), gammainccinv(looks, ndtr(-z)))
    series: NDArray[np.float64] = chebyshev.chebfit(t, np.log(g / looks), DEGREE)
    return series
