"""What `leakcheck` does, for Python: small probes on shortcuts beside statistics, random weights and a bundle.

The shortcuts are those of the specification (A5) and of Zhao et al. 2025, The Sweet Danger of Sugar (arXiv 2507.16438): what
names the host, the capture or the session tells the class in one capture and nothing in the next.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.build import make_encoder
from unlabeled.core.bundle import load_bundle
from unlabeled.core.contracts import BadInput, InputSpec, RequestError, Sample
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Data, validated
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.groups import distinct, folds
from unlabeled.core.data.items import Items, cut
from unlabeled.core.data.manifest import check_leaks
from unlabeled.core.evaluation.embed import embed
from unlabeled.core.evaluation.evaluate import FOLDS, under
from unlabeled.core.evaluation.heads import Boosting, Features, Forest, Head, Logistic
from unlabeled.core.evaluation.labels import UNLABELLED, Labels, read_labels
from unlabeled.core.evaluation.probe import probe
from unlabeled.core.evaluation.unseen import seen_groups, unseen
from unlabeled.core.measures.confusion import confusion
from unlabeled.core.measures.intervals import Interval, difference, interval
from unlabeled.core.nn.base import Encoder
from unlabeled.core.streams import rng
from unlabeled.core.studies.verdict import word
from unlabeled.network.baselines import Statistics, of_captures
from unlabeled.network.flow.statistics import SHORTCUTS
from unlabeled.network.leaks.twins import DISTANCE, elsewhere, simhashes
from unlabeled.network.options import ReaderOptions

MAJORITY, LOT, STATISTICS, RANDOM, BUNDLE = (
    "majority",
    "by lot",
    "size and time statistics, boosting",
    "random weights",
    "bundle",
)
# shortcut -> the names in SHORTCUTS that it sees, by how they begin
PROBES = {
    "ports only": ("port ",),
    "addresses and ports": ("address ", "port "),
    "TTL only": ("ttl ",),
    "first numbers only (sequence, identifier, window)": ("seq", "identifier", "window "),
    "first payload bytes only": ("byte ",),
}
TREES, ROUNDS = 25, 40.0
TWINS = 0.01  # share of flows above which near twins are worth a warning
# of the random encoder where there is no bundle to take its shape from
ENCODER = ("flow", {"width": 64, "depth": 2, "heads": 4})

Confusions = NDArray[np.int64]
Progress = Callable[[int, int], None]
Fit = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.int64]]  # rows to learn from, rows to name -> classes


def check(
    path: str | Path,
    labels: str | Path,
    options: Mapping[str, Any] | None = None,
    bundle: str | Path | None = None,
    seeds: int = 5,
    *,
    convert: Sequence[str] = (),
    allow_seen: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Macro-F1 over labelled flows of each probe, with its 95 % interval over groups and seeds, and what is to be said of it.

    Each seed splits the groups into folds of its own, up to 5, and leaves each out once. Scores stand beside the bundle where
    there is one, else beside naming classes by lot. Raises Leakage where the same packets stand under two groups, or the
    bundle has seen all groups; RequestError for what are no captures, and as `read_labels`.
    """
    data = Data(path=Path(path), options=dict(options or {}))
    validated(ReaderOptions, data.options, "data.options")
    if data.path.exists() and not of_captures(data):
        raise RequestError(f"{path}: leakcheck is of captures; of tables and URLs there are no shortcuts to look for")
    encoder = None if bundle is None else load_bundle(bundle)
    corpus = (
        Corpus.open(domain("network"), data) if encoder is None else under(encoder.bundle, data.path, convert, options)
    )
    check_leaks(corpus.manifest)
    rows = corpus.rows
    known = read_labels(Path(labels), [r.key for r in rows], [r.key for r in corpus.manifest.bad])
    trial = _Trial(corpus, known, _tested(encoder, corpus, known, allow_seen), seeds)
    samples = [corpus.record(int(i)) for i in trial.record]
    made = _made(trial, samples, corpus, encoder)
    for done, (name, fits) in enumerate(made.items()):
        if progress:
            progress(done, len(made))
        trial.score(name, fits)
    share = float(elsewhere(simhashes(samples), trial.group).mean())
    if progress:
        progress(len(made), len(made))
    return {
        "metric": "macro-F1 over flows",
        "classes": list(known.classes),
        "flows": len(trial.record),
        "groups": len(trial.test),
        "seeds": seeds,
        "beside": BUNDLE if encoder is not None else LOT,
        "scores": trial.scores(BUNDLE if encoder is not None else LOT),
        "twins": {"share": share, "what": f"64-bit simhash of the tokens, at most {DISTANCE} bits apart"},
        "warnings": trial.warnings(encoder is not None, share),
    }


def _tested(encoder: Encoder | None, corpus: Corpus, known: Labels, allow_seen: bool) -> list[str]:
    labelled = distinct(g for g, code in zip(corpus.groups, known.codes, strict=True) if code != UNLABELLED)
    if len(labelled) < 2:
        raise RequestError(
            f"{corpus.data.path}: all labelled flows are of one group, and nothing can be left out; label more captures, or set "
            "-O group=slot"
        )
    if encoder is None:
        return labelled
    return unseen(
        seen_groups(encoder.bundle, labelled, corpus.data.path, allow_seen), labelled, corpus.data.path, allow_seen
    )


class _Trial:
    """Labelled flows by number, their classes and groups, and the confusions (S, 1, G, K, K) of each probe."""

    def __init__(self, corpus: Corpus, known: Labels, test: Sequence[str], seeds: int) -> None:
        self.classes, self.test, self.seeds = len(known.classes), list(test), seeds
        self.record = np.flatnonzero(known.codes != UNLABELLED)
        self.label = known.codes[self.record]
        groups = np.array(corpus.groups)
        names = [*self.test, *(g for g in distinct(groups.tolist()) if g not in set(self.test))]
        number = {g: i for i, g in enumerate(names)}
        self.group = np.array([number[g] for g in groups[self.record].tolist()])
        per_fold = -(-len(self.test) // FOLDS)
        everywhere = len(self.test) <= per_fold  # one group to test on, and others to learn from
        self.folds = [[tuple(self.test)] if everywhere else folds(self.test, per_fold, seed) for seed in range(seeds)]
        for fold in {fold for of in self.folds for fold in of}:
            known.require(
                [g for g in names if g not in fold], groups.tolist(), f"the groups left out ({len(fold)})", "flow"
            )
        self.numbers = [[np.array([number[g] for g in fold]) for fold in of] for of in self.folds]
        self.confusions: dict[str, Confusions] = {}

    def score(self, name: str, fits: Callable[[int], Fit]) -> None:
        """fits: seed -> what names the rows of a fold."""
        found = np.zeros((self.seeds, 1, len(self.test), self.classes, self.classes), np.int64)
        for seed, of in enumerate(self.numbers):
            fit = fits(seed)
            for fold in of:
                inside = np.isin(self.group, fold)
                test = np.flatnonzero(inside)
                said = fit(np.flatnonzero(~inside), test)
                for g in fold:
                    at = self.group[test] == g
                    found[seed, 0, g] = confusion(self.label[test[at]], said[at], self.classes)
        self.confusions[name] = found

    def gain(self, a: str, b: str) -> Interval:
        return difference(self.confusions[a], self.confusions[b], seed=0)

    def scores(self, beside: str) -> dict[str, dict[str, float]]:
        scores = {}
        for name, confusions in self.confusions.items():
            own = interval(confusions, seed=0)
            scores[name] = {"score": own.mean, "low": own.low, "high": own.high}
            if name != beside:
                gain = self.gain(name, beside)
                scores[name] |= {"gain": gain.mean, "gain_low": gain.low, "gain_high": gain.high}
        return scores

    def warnings(self, bundle: bool, twins: float) -> list[str]:
        found = []
        means = {name: interval(c, seed=0).mean for name, c in self.confusions.items()}
        for name in [*PROBES, STATISTICS, RANDOM] if bundle else PROBES:
            if bundle and word(gain := self.gain(BUNDLE, name)) != "paid":
                found.append(
                    f"{name}: alone reaches the bundle's score, {means[name]:.3f} against {means[BUNDLE]:.3f} (the bundle minus it: "
                    f"{gain}); what the bundle knows beyond it is not shown by these data"
                )
            if not bundle and word(gain := self.gain(name, LOT)) == "paid":
                found.append(
                    f"{name}: tells the classes, {means[name]:.3f} against {means[LOT]:.3f} by lot ({gain} more); a model that can "
                    "see it may have learned nothing else"
                )
        if twins > TWINS:
            found.append(
                f"{twins:.1%} of the flows have a near twin in another group, so a split by group does not make them new; "
                "short flows often do"
            )
        return found


def _made(
    trial: _Trial, samples: Sequence[Sample], corpus: Corpus, encoder: Encoder | None
) -> dict[str, Callable[[int], Fit]]:
    """Probe -> seed -> what names the rows of a fold."""
    known = np.stack([s.meta["shortcuts"] for s in samples]).astype(np.float64)
    made: dict[str, Callable[[int], Fit]] = {
        MAJORITY: lambda seed: _majority(trial),
        LOT: lambda seed: _lot(trial, seed),
    }
    for name, starts in PROBES.items():
        values = known[:, [column.startswith(starts) for column in SHORTCUTS]]
        made[name] = lambda seed, values=values: _headed(trial, values, Forest(seed, TREES))  # type: ignore[misc]
    statistics = Statistics().features(samples)
    made[STATISTICS] = lambda seed: _headed(trial, statistics, Boosting(seed, (ROUNDS,)))
    items = cut(corpus, None).take(trial.record)
    name, options = ENCODER
    if encoder is not None:
        about = dict(encoder.bundle.about["encoder"])
        name, options = about.pop("name"), about
    specs = corpus.specs if encoder is None else encoder.specs

    def random(seed: int) -> Fit:
        model = make_encoder(name, options, corpus.domain, specs, seed).eval()
        return _headed(trial, _embedded(model, items, specs), Logistic())

    made[RANDOM] = random
    if encoder is not None:
        ours = _embedded(encoder, items, specs)
        made[BUNDLE] = lambda seed: _headed(trial, ours, Logistic())
    return made


def _embedded(encoder: Encoder, items: Items, specs: Mapping[str, InputSpec]) -> Features:
    """(N, P). Raises BadInput where a flow can no longer be read."""
    found = embed(encoder, items, specs)
    if found.failed:
        raise BadInput(next(iter(found.failed.values())))
    return found.values


def _majority(trial: _Trial) -> Fit:
    def fit(train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.full(len(test), np.bincount(trial.label[train]).argmax())

    return fit


def _lot(trial: _Trial, seed: int) -> Fit:
    """Draws each class as often as it is among the flows to learn from."""

    def fit(train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.int64]:
        return rng(seed, "leakcheck", "lot", *test[:1].tolist()).choice(trial.label[train], len(test))

    return fit


def _headed(trial: _Trial, values: Features, head: Head) -> Fit:
    def fit(train: NDArray[np.int64], test: NDArray[np.int64]) -> NDArray[np.int64]:
        known = probe(values[train], trial.label[train], trial.group[train], values[test], trial.classes, head)
        return np.asarray(known.scores.argmax(1))

    return fit
