"""Mixtures: parts of the data, named by their keys, in stated shares."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
from pydantic import Field

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Strict
from unlabeled.core.data.plans.dealing import NOWHERE, Ids
from unlabeled.core.data.plans.parts import InParts

log = logging.getLogger(__name__)


class Mixture(InParts):
    """Every part of the data gives its share of every batch, whatever its size (as the weighted data sets of Assran et al.
    2025, V-JEPA 2).

    A part is what a pattern of record keys names, and an item is of the first pattern that fits. What fits none is never
    drawn. Shares are of their sum. keys: (N,) of the items' records.

    Raises RequestError where nothing fits a pattern, and where a part has fewer items than its share of a batch, so that one
    would meet itself.

    Deviations: the paper states weights to draw by; here a batch holds the stated shares up to one item, and no item of a
    part comes again before the others.
    """

    class Options(Strict):
        shares: dict[str, float] = Field(
            min_length=1,
            description="pattern of record keys -> share, as {'siteA/*': 0.7, '*': 0.3}; the first that fits",
        )

    def __init__(self, keys: Sequence[str], batch_size: int, options: Options) -> None:
        names = list(options.shares)
        self.shares = np.array([options.shares[n] for n in names], float)
        if not (self.shares > 0).all():
            raise RequestError(f"plan.shares: {names[int(self.shares.argmin())]!r} has no share above 0; leave it out")
        self.shares /= self.shares.sum()
        of = {key: next((i for i, n in enumerate(names) if fnmatchcase(key, n)), NOWHERE) for key in set(keys)}
        super().__init__(np.array([of[key] for key in keys], np.int64), batch_size)
        sizes = np.bincount(self.part[self.part != NOWHERE], minlength=len(names))
        self.parts = len(names)
        for name, size, share in zip(names, sizes.tolist(), self.shares.tolist(), strict=True):
            if size == 0:
                some = ", ".join(map(repr, sorted(of)[:2]))
                raise RequestError(
                    f"plan.shares: {name!r} fits no key that is left, of keys as {some}; change it, or leave it out"
                )
            if share * batch_size > size:
                raise RequestError(
                    f"plan.shares: {name!r} has {size} items for {share * batch_size:.3g} of every batch; lower its share "
                    "or batch_size"
                )
        if left := int((self.part == NOWHERE).sum()):
            log.warning("plan.shares: %d of %d items fit no pattern and are never drawn", left, len(keys))

    def _counts(self, sizes: Ids, steps: int) -> Ids:
        """In their shares; what a part cannot give any more, for items that failed, the others give."""
        room, total = sizes * steps, steps * self.batch_size
        counts, free = np.zeros(len(sizes), np.int64), sizes > 0
        while True:
            ideal = np.where(free, self.shares, 0) / self.shares[free].sum() * (total - counts.sum())
            full = free & (ideal > room + 1e-9)
            if not full.any():
                break
            counts[full], free = room[full], free & ~full
        counts[free] = np.floor(ideal[free])
        rest = np.argsort(np.where(free, np.floor(ideal) - ideal, 1), kind="stable")[: total - counts.sum()]
        counts[rest] += 1
        return counts
