"""Small heads on fixed features, each with its grid from strong to weak regularisation and its own held-out loss."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import KernelCenterer

from unlabeled.core.contracts import MethodCard, RequestError, load
from unlabeled.core.contracts.recipe import Data

log = logging.getLogger(__name__)

Features = NDArray[np.floating]
Targets = NDArray[np.int64]
Scores = NDArray[np.float64]

UNSEEN = -1e3  # log-probability of a class that the labelled windows do not hold


class Head(Protocol):
    @property
    def grid(self) -> tuple[float, ...]:
        """From strong to weak regularisation; empty where there is nothing to choose."""
        ...

    def path(self, x: Features, y: Targets, out: Features, classes: int, grid: Sequence[float]) -> Iterator[Scores]:
        """Scores (M, K) of the rows `out` (M, P), larger is likelier, for each value of `grid`, fitted on x (N, P), y (N,)."""
        ...

    def loss(self, scores: Scores, y: Targets) -> float:
        """Sum over rows of the loss this head is fitted with."""
        ...


@dataclass(frozen=True)
class Logistic:
    """Multinomial logistic regression; scores are log-probabilities; grid: scikit-learn's C."""

    grid: tuple[float, ...] = (0.01, 0.1, 1.0, 10.0, 100.0)
    max_iter: int = 2000

    def path(self, x: Features, y: Targets, out: Features, classes: int, grid: Sequence[float]) -> Iterator[Scores]:
        model = LogisticRegression(max_iter=self.max_iter, tol=1e-4, warm_start=True)
        for value in grid:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)
                model.set_params(C=value).fit(x, y)
            if model.n_iter_.max() >= self.max_iter:
                log.warning("logistic regression with C = %g stopped at %d iterations", value, self.max_iter)
            scores = np.full((len(out), classes), UNSEEN)
            # from the logits: scikit-learn's log-probabilities are -inf where a probability rounds to 0
            logits = model.decision_function(out)
            logits = np.stack([np.zeros_like(logits), logits], 1) if logits.ndim == 1 else logits
            scores[:, model.classes_] = log_softmax(logits, axis=1)
            yield scores

    def loss(self, scores: Scores, y: Targets) -> float:
        return -float(scores[np.arange(len(y)), y].sum())


@dataclass(frozen=True)
class Ridge:
    """Ridge regression on +1 and -1 per class, as RidgeClassifier(alpha=value * P); solved in its dual form.

    Scores are the regressions' values. The dual fits many features (MiniRocket: 10,000) on few windows.
    """

    grid: tuple[float, ...] = (10.0, 1.0, 0.1, 0.01, 0.001)

    def path(self, x: Features, y: Targets, out: Features, classes: int, grid: Sequence[float]) -> Iterator[Scores]:
        targets = self._targets(y, classes)
        middle = targets.mean(0)
        centre = KernelCenterer()
        inner = centre.fit_transform((x @ x.T).astype(np.float64) / x.shape[1])
        outer = centre.transform((out @ x.T).astype(np.float64) / x.shape[1])
        for value in grid:
            yield KernelRidge(alpha=value, kernel="precomputed").fit(inner, targets - middle).predict(outer) + middle

    def loss(self, scores: Scores, y: Targets) -> float:
        return float(((scores - self._targets(y, scores.shape[1])) ** 2).sum())

    @staticmethod
    def _targets(y: Targets, classes: int) -> Scores:
        return 2.0 * np.eye(classes)[y] - 1.0


@dataclass(frozen=True)
class Forest:
    """Random forest (Breiman 2001); scores are mean leaf probabilities. Nothing is tuned."""

    seed: int = 0
    trees: int = 100
    grid: tuple[float, ...] = ()

    def path(self, x: Features, y: Targets, out: Features, classes: int, grid: Sequence[float]) -> Iterator[Scores]:
        model = RandomForestClassifier(self.trees, random_state=self.seed).fit(x, y)
        for _ in grid:
            scores = np.zeros((len(out), classes))
            scores[:, model.classes_] = model.predict_proba(out)
            yield scores

    def loss(self, scores: Scores, y: Targets) -> float:
        return float((scores.argmax(1) != y).sum())


@dataclass(frozen=True)
class Boosting:
    """Gradient boosting of small trees on binned features (Ke et al. 2017, LightGBM); scores are log-probabilities.

    grid: rounds; all of them are read off one fit. Nothing is drawn below 200,000 rows, above which the bins are found on some
    of them, by the seed.
    """

    seed: int = 0
    grid: tuple[float, ...] = (5.0, 20.0, 80.0)
    leaves: int = 15
    least: int = 5  # rows of a leaf; scikit-learn's 20 would leave few labels without any split

    def path(self, x: Features, y: Targets, out: Features, classes: int, grid: Sequence[float]) -> Iterator[Scores]:
        model = HistGradientBoostingClassifier(
            max_iter=int(max(grid)),
            max_leaf_nodes=self.leaves,
            min_samples_leaf=self.least,
            early_stopping=False,
            random_state=self.seed,
        ).fit(x, y)
        rounds = {int(value) for value in grid}
        staged = enumerate(model.staged_predict_proba(out), 1)
        found = {number: probability for number, probability in staged if number in rounds}
        for value in grid:
            scores = np.full((len(out), classes), UNSEEN)
            scores[:, model.classes_] = np.log(np.maximum(found[int(value)], 1e-300))  # above UNSEEN
            yield scores

    def loss(self, scores: Scores, y: Targets) -> float:
        return -float(scores[np.arange(len(y)), y].sum())


def suits(card: MethodCard, data: Data) -> bool:
    """Whether a baseline can read these data: what its class says in `suits(data)`, where it says anything."""
    says = getattr(load(card.target), "suits", None)
    return says is None or bool(says(data))


def head_of(card: MethodCard, seed: int = 0) -> Head:
    """The head a baseline is read with: what follows the plus sign of its name."""
    known: dict[str, Head] = {
        "logreg": Logistic(),
        "forest": Forest(seed),
        "ridge": Ridge(),
        "boosting": Boosting(seed),
    }
    name = card.name.rpartition("+")[2]
    if name not in known:
        raise RequestError(f"the baseline {card.name!r} must end with +{', +'.join(known)}: the head it is read with")
    return known[name]
