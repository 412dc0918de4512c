"""ColorMAE: Hinojosa et al. 2024, ColorMAE: Exploring data-independent masking strategies in Masked AutoEncoders."""

from __future__ import annotations

from pydantic import Field

from unlabeled.core.methods.mae import MAE
from unlabeled.core.tokens.schemes import FilteredNoise, Scheme


class ColorMAE(MAE):
    """MAE whose masks are filtered noise: patches are hidden where the noise is high, whatever is in them.

    The noise has a band of frequencies, which the authors call green and found best; so visible patches come in small
    groups, at even distances. All else is MAE. Works on grids of any rank.

    Deviations: the noise is drawn for each item at the size of its grid, where the authors crop and flip stored tiles;
    their code holds no deviations of the filters, and ours make waves of 5 tokens; purple noise leaves its
    band out altogether. Patches with high noise are hidden, in their code those with low noise, which is the same since the
    noise is symmetric.
    """

    class Options(MAE.Options):
        mask: Scheme = Field(FilteredNoise(), description="which tokens are hidden: a name, or a name with its options")
