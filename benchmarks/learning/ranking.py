"""Does the effective rank of features tell, without labels, which method's probe will score higher?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from unlabeled.core.measures.intervals import LEVEL, RESAMPLES, Interval
from unlabeled.core.streams import rng

FEWEST = 8  # methods; below, a rank correlation says nothing


def correlation(ranks: Sequence[float], scores: Sequence[float], seed: int = 0) -> Interval:
    """Spearman's rank correlation over methods, and its 95 % interval over resamples of methods."""
    pairs = np.stack([ranks, scores], 1)
    lot = rng(seed, "methods").integers(0, len(pairs), (RESAMPLES, len(pairs)))
    # a resample of one method alone has no order
    found = [_rho(pairs[at]) for at in lot if len(np.unique(pairs[at], axis=0)) > 2]
    low, high = np.percentile(found, LEVEL)
    return Interval(_rho(pairs), float(low), float(high))


def _rho(pairs: Any) -> float:
    return float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


def section(runs: Mapping[str, Any], scores: Mapping[str, float], ours: Sequence[str]) -> str:
    """RankMe (mean over seeds) against the probe's macro-F1, over all methods and over those of one encoder."""
    seen = {n: [r for r in runs[n]["rankme"] if r is not None] for n in ours}
    known = [n for n in ours if n in scores and seen[n]]
    ranks = {n: float(np.mean(seen[n])) for n in known}
    families = dict.fromkeys(runs[n]["encoder"] for n in known)
    groups = {"all": known, **{f: [n for n in known if runs[n]["encoder"] == f] for f in families}}
    lines = [
        "### The effective rank, and the score",
        "",
        "RankMe (Garrido et al. 2023) of the pool's features (of seed 0 alone where the other runs are older than this page's",
        "measure), and macro-F1 of the probe; both are means over seeds. Spearman's rank",
        "correlation over methods; the interval is over resamples of methods. An encoder's width bounds its rank, so that the rows of",
        "one encoder say more than the first. A method ranks the same features for itself; across objectives it need not.",
        "",
        "| methods | n | rank correlation |",
        "|---|---|---|",
    ]
    for name, of in groups.items():
        if len(of) >= FEWEST:
            found = correlation([ranks[n] for n in of], [scores[n] for n in of])
            lines.append(f"| {name} | {len(of)} | {found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}] |")
    lines += ["", "| method | encoder | RankMe | macro-F1 |", "|---|---|---|---|"]
    lines += [f"| {n} | {runs[n]['encoder']} | {ranks[n]:.1f} | {scores[n]:.3f} |" for n in known]
    return "\n".join(lines)
