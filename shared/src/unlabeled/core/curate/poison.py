"""Poison: images that share a trigger in their frequencies, as those of CTRL do (Li et al. 2023)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.fft import dctn
from scipy.ndimage import median_filter, uniform_filter
from scipy.stats import poisson

from unlabeled.core.contracts import RequestError
from unlabeled.core.curate.ahead import ahead
from unlabeled.core.curate.base import Decision
from unlabeled.core.curate.collection import Collection, Picture

log = logging.getLogger(__name__)

Peaks = NDArray[np.float32]

# red, green, blue to Cb and Cr (ITU-R BT.601, as JPEG); U and V are the same two but for their scale
CHROMA = np.array([[-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32)
# what rounding to whole values adds to a coefficient, as a standard deviation, and a little more
ROUNDING = 0.5
# of the normal distribution: standard deviation over median absolute value
MAD = 1.4826


class Poison:
    """Drop images in which the same colour frequencies stand out as in too many others.

    CTRL adds a constant to a few bins of the DCT of every block of U and V, the same in all poisoned images. The scan knows
    neither bins nor size. Per image and bin: the coefficient, a mean over blocks, over the median of its neighbours in this
    image. Per folder: a bin is suspicious where `peak` is passed in more images with one sign than can be by chance, that is
    more than a Poisson variable with the mean of what is seen with the other sign, or around the bin (the sign of a
    mid or high frequency turns with the place of what is seen, so that in clean images both are as frequent). Without such
    a bin nothing is dropped. Else images are dropped by their mean, clipped, over all suspicious bins, above the
    limit that at most `false_flags` of all images pass with the signs turned. That mean is the score.

    What it cannot see: a trigger in fewer than about 8 images; one that JPEG has removed (4:2:0 halves the colours
    and leaves a tenth or less of CTRL's own bins; then it is no trigger any more) or that was made before a resize or crop;
    one with another block size; grey images. Copies of one image share its frequencies: run `duplicates` first.

    Deviations: the paper has an attack and no such defence; decided here.
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        window: int = Field(
            32, ge=8, description="side of the blocks, in cells (CTRL: 32); images must have one or more"
        )
        peak: float = Field(6.0, gt=0, description="how many times its neighbours a coefficient is, to stand out")
        chance: float = Field(
            1e-3, gt=0, lt=1, description="of a false alarm for a clean folder, over all bins, if Poisson"
        )
        false_flags: float = Field(
            1e-3, ge=0, le=0.01, description="of clean images, the share that an alarm may drop too"
        )

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, collection: Collection, kept: NDArray[np.bool_]) -> list[Decision]:
        o, items = self.options, np.flatnonzero(kept).tolist()
        scanned, counts = 0, np.zeros((2, 2, o.window, o.window))
        for _, peaks in self._scan(collection, items):
            scanned += 1
            counts += (peaks > o.peak, peaks < -o.peak)
        if not scanned:
            raise RequestError(
                f"poison looks at images in colour of {o.window} x {o.window} cells or more; there are none, leave it out"
            )
        found = suspicious(counts, o.chance)
        if not len(found.where):
            return []
        log.warning("%s stands out in too many images, as a trigger does", found)
        able, scores = zip(*((i, found.score(p, o.peak)) for i, p in self._scan(collection, items)), strict=True)
        limit = mirrored(scores, o.false_flags)
        return [
            Decision(i, f"shares what stands out in too many images: {found}", score=score)
            for i, score in zip(able, scores, strict=True)
            if score > limit
        ]

    def _scan(self, collection: Collection, items: list[int]) -> Iterator[tuple[int, Peaks]]:
        """Items with their peaks, of those that are in colour and large enough. Images are read anew each time."""
        side = self.options.window

        def peaks(i: int) -> Peaks | None:
            picture = collection.picture(i)
            return peaks_of(picture, side) if picture.shape[2] == 3 and min(picture.shape[:2]) >= side else None

        for i, found in zip(items, ahead(peaks, items), strict=True):
            if found is not None:
                yield i, found


def peaks_of(picture: Picture, window: int) -> Peaks:
    """(2, W, W) of an image (H, W, 3): the DCT of Cb and Cr, a mean over whole blocks, over the scale of 7 x 7 bins around.

    The scale is the median down the columns of the medians along the rows, four times as fast as that of all 49.
    """
    rows, columns = picture.shape[0] // window, picture.shape[1] // window
    chroma = picture[: rows * window, : columns * window].astype(np.float32) @ CHROMA.T
    # the mean of the blocks has the mean of their coefficients
    block = chroma.reshape(rows, window, columns, window, 2).mean((0, 2)).transpose(2, 0, 1)
    c = dctn(block, axes=(1, 2), norm="ortho")
    around = median_filter(median_filter(np.abs(c), size=(1, 1, 7), mode="mirror"), size=(1, 7, 1), mode="mirror")
    return np.asarray(c / (MAD * around + ROUNDING), np.float32)


@dataclass(frozen=True)
class Found:
    """Suspicious bins: where (K, 3) channel, row and column; sign (K,) of their coefficients."""

    where: NDArray[np.int64]
    sign: NDArray[np.float64]

    def score(self, peaks: Peaks, clip: float) -> float:
        """Mean of an image's peaks over the bins, each in [-clip, clip], so that no single one decides; positive as the trigger."""
        signed = peaks[tuple(self.where.T)] * self.sign
        return float(np.clip(signed, -clip, clip).mean())

    def __str__(self) -> str:
        return ", ".join(
            f"{'CbCr'[2 * c : 2 * c + 2]} ({u}, {v}){'+' if s > 0 else '-'}"
            for (c, u, v), s in zip(self.where, self.sign, strict=True)
        )


def suspicious(counts: NDArray[np.float64], chance: float) -> Found:
    """The bins that stand out with one sign too often. counts (2, 2, W, W): images by sign, channel, row and column.

    Bins below W / 8 along an axis are left alone: they hold the edges of what is seen, of any height.
    """
    width = counts.shape[-1]
    both = counts.sum((0, 1)) / 4  # a mean over signs and channels
    around = (25 * uniform_filter(both, 5, mode="mirror") - both) / 24
    expected = np.maximum(counts[::-1], around) + 0.5
    tail = poisson.sf(counts - 1, expected)
    axis = np.arange(width)
    tail[..., np.minimum.outer(axis, axis) < width // 8] = 1
    found = np.argwhere(tail < chance / tail.size)
    return Found(found[:, 1:], np.where(found[:, 0] == 0, 1.0, -1.0))


def mirrored(scores: Sequence[float], share: float) -> float:
    """The lowest limit, from 0 on, that at most `share` of all scores pass with their signs turned."""
    return max(0.0, -sorted(scores)[int(share * len(scores))])
