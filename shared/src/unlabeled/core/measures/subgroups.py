"""Scores of subgroups (site, sex, age, vendor), with their numbers and intervals, and the gap between best and worst."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from unlabeled.core.measures.intervals import Interval, Statistic, Tally, over_groups, paired

LEAST = 10  # records; fewer may point at persons


@dataclass(frozen=True)
class Subgroup:
    """n records, and the score of these alone."""

    n: int
    score: Interval


@dataclass(frozen=True)
class Subgroups:
    """By name, best first; names with too few records; gap: the first less the last, None where fewer than two are left."""

    scores: Mapping[str, Subgroup]
    suppressed: tuple[str, ...]
    gap: Interval | None


def by_subgroup(
    of: Statistic,
    tallies: Mapping[str, Tally],
    records: Mapping[str, int],
    seed: int = 0,
    least: int = LEAST,
) -> Subgroups:
    """The statistic `of` of each subgroup's tally (G, ...), all over the same G groups (see `measures.intervals`).

    records: how many each subgroup has. Below `least` nothing of it is said but its name, for privacy: a score of three
    patients tells of the patients. (Who knows all other numbers can still subtract.)

    A subgroup's interval resamples the groups that it has records of. That of the gap resamples all groups, paired, with best
    and worst held fixed: they were chosen on the same records, so the gap itself is the upper side of what to expect.
    """
    kept = [name for name in tallies if records[name] >= least]
    scores = {}
    for name in kept:
        tally = tallies[name]
        own = tally[tally.reshape(len(tally), -1).any(1)]
        scores[name] = Subgroup(records[name], over_groups(of, own, seed))
    order = sorted(kept, key=lambda name: -scores[name].score.mean)
    gap = paired(of, tallies[order[0]], tallies[order[-1]], seed) if len(order) > 1 else None
    return Subgroups({name: scores[name] for name in order}, tuple(name for name in tallies if name not in scores), gap)
