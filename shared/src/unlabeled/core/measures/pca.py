"""Principal components of a few rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pca(x: NDArray[np.floating], components: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Coordinates (N, components) of rows x (N, P) along their principal axes, and the share of the variance on each.

    The sign of an axis is such that the loading of largest size is positive. Missing axes, and axes of rows without
    spread, are 0. Pearson 1901; by singular values of the centred rows.
    """
    x = np.asarray(x, np.float64)
    u, s, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    sign = np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(1)])
    total = float((s**2).sum())
    share = s**2 / total if total > 0 else np.zeros_like(s)
    wide = max(0, components - len(s))
    coordinates = np.pad((u * s * sign)[:, :components], ((0, 0), (0, wide)))
    return coordinates, np.pad(share[:components], (0, wide))
