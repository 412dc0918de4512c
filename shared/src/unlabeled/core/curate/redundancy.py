"""Less is More: Wolf et al. 2024, Selective Reduction of CT Data for Self-Supervised Pre-Training of Deep Learning Models."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.ndimage import uniform_filter

from unlabeled.core.curate.base import Decision
from unlabeled.core.curate.collection import Collection
from unlabeled.core.curate.hashes import dhash, hamming

Floats = NDArray[np.float64]
Scores = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Floats]

# at most so many bits, at least so much of the others
LIMITS = {"hash": 6.0, "ssim": 0.8, "mi": 0.5, "embedding": 0.95}
BINS = 32


class Redundancy:
    """Of items alike within a group (the slices of a series, the frames of a folder), keep the first.

    A greedy scan in the order of the names, numbers by their value: the first item that remains is kept, and all that are
    alike to it are dropped; then the next (their section on hashing: dHash of 8 x 8 bits, Hamming distance at most 6). Groups
    do not see each other. The score is the similarity, or the distance in bits.

    Deviations: their code sorts file names as text, so that _10 comes before _2; here by number. Cells of the hash are means
    under a tent, not Lanczos. Constant pictures (slices of air), whose hashes are all equal, are dropped by themselves. SSIM, mutual
    information and embeddings are named in the paper without code: SSIM in its plain form over 7 cells along each axis, mutual
    information of 32 bins, divided by the mean entropy; their limits are decided here.
    """

    class Options(BaseModel):
        model_config = ConfigDict(frozen=True, extra="forbid")

        similarity: Literal["hash", "ssim", "mi", "embedding"] = Field(
            "hash", description="what tells how alike: dHash, structural similarity, mutual information, or cosine"
        )
        limit: float | None = Field(
            None,
            ge=0,
            description="alike are: hash: at most so many bits of 64; the others: at least so much of 1; "
            f"none: {', '.join(f'{name} {limit:g}' for name, limit in LIMITS.items())}",
        )
        constant: Literal["drop", "keep"] = Field("drop", description="items of one value all over (air, a blank page)")

    def __init__(self, options: Options) -> None:
        self.options = options

    def run(self, collection: Collection, kept: NDArray[np.bool_]) -> list[Decision]:
        o = self.options
        limit = LIMITS[o.similarity] if o.limit is None else o.limit
        facts, alike = _similarity(o.similarity, collection)
        members: dict[str, list[int]] = defaultdict(list)
        decisions = []
        for i in np.flatnonzero(kept).tolist():
            if o.constant == "drop" and np.ptp(collection.grey[i]) <= 1:
                decisions.append(Decision(i, "constant"))
            else:
                members[collection.groups[i]].append(i)
        for items in members.values():
            left = np.array(sorted(items, key=lambda i: natural(collection.keys[i])))
            values = facts(left)
            while len(left):
                score = alike(values[:1], values[1:])
                drop = score <= limit if o.similarity == "hash" else score >= limit
                decisions += [
                    Decision(int(i), "alike within its group", int(left[0]), round(float(s), 4))
                    for i, s in zip(left[1:][drop], score[drop], strict=True)
                ]
                left, values = left[1:][~drop], values[1:][~drop]
        return decisions


def natural(key: str) -> tuple[tuple[str, int, str], ...]:
    """Sorts slice_2 before slice_10; of names that differ in leading zeros alone, as text."""
    parts = re.split(r"([0-9]+)", key)
    return (
        *((text, int(number), "") for text, number in zip(parts[::2], [*parts[1::2], "0"], strict=True)),
        (key, 0, ""),
    )


def _similarity(name: str, collection: Collection) -> tuple[Callable[[NDArray[np.int64]], Any], Callable[..., Any]]:
    """What is held of items, and how alike one is to others by that."""
    if name == "embedding":
        values = collection.embedded("redundancy with similarity=embedding")
        unit = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
        return lambda items: unit[items], lambda one, others: others @ one[0]
    if name == "hash":
        return lambda items: dhash(collection.grey[items]), hamming
    return lambda items: np.asarray(collection.grey[items]), {"ssim": ssim, "mi": mutual}[name]


def ssim(one: NDArray[np.uint8], others: NDArray[np.uint8]) -> Floats:
    """(N,) structural similarity of a thumbnail (1, *S) with others (N, *S).

    Wang et al. 2004, equation 13, with means over 7 cells along each axis, K1 = 0.01, K2 = 0.03, and unbiased variances; the mean
    leaves out a border of 3 cells.
    """
    if not len(others):
        return np.zeros(0)
    rank = one.ndim - 1
    x, y = one.astype(np.float64), others.astype(np.float64)

    def mean(values: Floats) -> Floats:
        return np.asarray(uniform_filter(values, (0, *[7] * rank)))

    mx, my = mean(x), mean(y)
    unbiased = 7**rank / (7**rank - 1)
    vx, vy, vxy = (unbiased * v for v in (mean(x * x) - mx * mx, mean(y * y) - my * my, mean(x * y) - mx * my))
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    values = (2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    inner = values[(slice(None), *[slice(3, -3)] * rank)]
    return np.asarray(inner.mean(tuple(range(1, rank + 1))))


def mutual(one: NDArray[np.uint8], others: NDArray[np.uint8]) -> Floats:
    """(N,) mutual information of a thumbnail (1, *S) with others (N, *S), over the mean of both entropies; 1 where equal."""
    if not len(others):
        return np.zeros(0)
    n = len(others)
    x, y = (v.reshape(len(v), -1).astype(np.int64) * BINS // 256 for v in (one, others))
    joint = np.stack([np.bincount(row * BINS + x[0], minlength=BINS**2) for row in y])
    p = joint.reshape(n, BINS, BINS) / x.shape[1]
    entropy = [-(q * np.log(np.where(q > 0, q, 1))).reshape(n, -1).sum(1) for q in (p, p.sum(1), p.sum(2))]
    total = entropy[1] + entropy[2]
    return np.asarray(np.where(total > 0, 2 * (total - entropy[0]) / np.where(total > 0, total, 1), 1.0))
