"""The two sets, alike in form: 8 x 8 pixels, grey levels from 0 to 16, ten classes, a pool and a test.

Fashion-MNIST (Xiao et al. 2017): 70,000 images of articles of clothing, 28 x 28 pixels, light on black, as the digits here
are. The outer two pixels on each side are cut off and 3 x 3 pixels averaged; levels are not rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from learning import digits, report
from learning.budget import Data
from learning.digits import Ids
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from continued.budget import Fashion
from continued.idx import read_idx
from unlabeled.core.contracts import Input, RequestError, Sample
from unlabeled.core.streams import rng

SIDE, CUT, FOLD = 28, 2, 3  # pixels of Fashion-MNIST: the side, what is cut off of it, and what is averaged
FIRST, SECOND = "digits", "fashion"
Grey = NDArray[np.float32]


@dataclass(frozen=True)
class Set:
    """grey (N, 8, 8) in 0 ... 16, labels (N,); pool and test number images; block (T,) of test images drawn together."""

    grey: Grey
    labels: Ids
    pool: Ids
    test: Ids
    block: Ids


class Images:
    """Grey levels (N, 8, 8), already divided by the scale, as items; what a loader and `embed` draw from."""

    def __init__(self, values: Grey) -> None:
        self.values, self.record = values, np.arange(len(values))

    def __len__(self) -> int:
        return len(self.values)

    def sample(self, i: int) -> Sample:
        image = Input(self.values[i][None], ("grey",), ("",), unit="px", spacing=(1.0, 1.0))
        return Sample({"x": image}, key=f"image-{i}", group=f"image-{i}", index=i, record=i)


def read(folder: Path, plan: Fashion, data: Data) -> dict[str, Set]:
    return {FIRST: handwritten(data), SECOND: fashion(folder, plan)}


def handwritten(data: Data) -> Set:
    """The digits as in the learning table: test forms are whole, ten neighbouring test images of a form are a block."""
    split, found = digits.split(data.test_forms, data.validation_forms, data.seed), load_digits()
    grey, labels = found.images.astype(np.float32), found.target.astype(np.int64)
    return Set(grey, labels, split.pool, split.test, report.blocks(split.test))


def fashion(folder: Path, plan: Fashion) -> Set:
    """Images by lot: the pool of the training part, the test of the test part. Nothing says which images are kin, so that
    a block is ten by lot, as many as the digits' blocks have. Raises RequestError where the files are not Fashion-MNIST's.
    """
    greys, labels = [], []
    for part, count in (("train", plan.pool), ("t10k", plan.test)):
        images, names = (read_idx(folder / f"{part}-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
        if images.shape[1:] != (SIDE, SIDE) or names.shape != images.shape[:1] or len(names) < count:
            raise RequestError(
                f"{folder}: {part} holds images {images.shape} and labels {names.shape}, not {count} or more images of "
                f"{SIDE} x {SIDE} with a label each; name the folder of Fashion-MNIST"
            )
        drawn = rng(plan.seed, "fashion", part).choice(len(names), count, replace=False)
        greys.append(small(images[drawn]))
        labels.append(names[drawn].astype(np.int64))
    number = np.arange(plan.pool + plan.test)
    pool, test = number[: plan.pool], number[plan.pool :]
    return Set(np.concatenate(greys), np.concatenate(labels), pool, test, np.arange(plan.test) // report.BLOCK)


def small(images: NDArray[np.uint8]) -> Grey:
    """(N, 28, 28) in 0 ... 255 to (N, 8, 8) in 0 ... 16."""
    side = (SIDE - 2 * CUT) // FOLD
    inside = images[:, CUT:-CUT, CUT:-CUT].reshape(len(images), side, FOLD, side, FOLD)
    return (inside.mean((2, 4)) * (digits.WHITE / 255)).astype(np.float32)
