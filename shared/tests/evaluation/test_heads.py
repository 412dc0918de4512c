from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier

from unlabeled.core.contracts import MethodCard, RequestError
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.evaluation.heads import UNSEEN, Boosting, Forest, Logistic, Ridge, head_of, suits

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 8))
Y = (X[:, 0] > 0).astype(np.int64) + (X[:, 1] > 0.5)
OUT = RNG.normal(size=(25, 8))


def test_every_logistic_of_a_warm_path_equals_a_cold_one() -> None:
    head = Logistic()
    for value, scores in zip(head.grid, head.path(X, Y, OUT, 3, head.grid), strict=True):
        cold = LogisticRegression(C=value, tol=1e-8, max_iter=5000).fit(X, Y).predict_proba(OUT)
        np.testing.assert_allclose(np.exp(scores), cold, atol=0.01)


def test_ridge_equals_sklearns_classifier() -> None:
    # alpha = value * P, P = 8
    head = Ridge()
    for value, scores in zip(head.grid, head.path(X, Y, OUT, 3, head.grid), strict=True):
        expected = RidgeClassifier(alpha=value * 8).fit(X, Y).decision_function(OUT)
        np.testing.assert_allclose(scores, expected, atol=1e-9)


def test_a_class_without_a_labelled_window_is_never_predicted() -> None:
    # class 3 of 4 is not in Y
    for head in (Logistic(), Ridge(), Forest(), Boosting()):
        (scores,) = head.path(X, Y, OUT, 4, [1.0])
        assert scores.shape == (25, 4)
        assert (scores.argmax(1) != 3).all()
    (scores,) = Logistic().path(X, Y, OUT, 4, [1.0])
    assert (scores[:, 3] == UNSEEN).all()


def test_two_classes_and_probabilities_that_round_to_zero() -> None:
    # log p of the binary model is -log(1 + exp(-d)) and -log(1 + exp(d)); at d = 2000 and beyond scikit-learn gives -inf
    x, y = X[:, :1] + 4 * (Y[:, None] > 0), (Y > 0).astype(np.int64)
    (scores,) = Logistic().path(x, y, np.array([[0.5], [1e5]]), 2, [1.0])
    d = LogisticRegression(C=1.0, tol=1e-4).fit(x, y).decision_function([[0.5], [1e5]])
    assert d[1] > 2000
    np.testing.assert_allclose(scores[0], [-np.log1p(np.exp(d[0])), -np.log1p(np.exp(-d[0]))], rtol=1e-9)
    np.testing.assert_allclose(scores[1], [-d[1], 0.0], rtol=1e-9)


def test_losses_by_hand() -> None:
    scores = np.log(np.array([[0.5, 0.5], [0.25, 0.75]]))
    assert Logistic().loss(scores, np.array([0, 1])) == pytest.approx(-np.log(0.5) - np.log(0.75))
    # targets (1, -1): (0 - 1)^2 + (0 + 1)^2
    assert Ridge().loss(np.zeros((1, 2)), np.array([0])) == 2.0


def test_a_forest_repeats_with_its_seed() -> None:
    (a,), (b,), (c,) = (Forest(seed).path(X, Y, OUT, 3, [0.0]) for seed in (1, 1, 2))
    assert (a == b).all()
    assert (a != c).any()


def test_every_round_of_boosting_equals_a_fit_of_so_many_and_it_repeats() -> None:
    head = Boosting()
    for value, scores in zip(head.grid, head.path(X, Y, OUT, 3, head.grid), strict=True):
        alone = HistGradientBoostingClassifier(max_iter=int(value), max_leaf_nodes=15, min_samples_leaf=5)
        np.testing.assert_allclose(np.exp(scores), alone.fit(X, Y).predict_proba(OUT), atol=1e-12)
        again = next(Boosting(seed=3).path(X, Y, OUT, 3, [value]))
        assert (again == scores).all()
    # a stretch in the middle, which no line tells from both ends
    x = np.linspace(0, 1, 200)[:, None]
    y = ((x[:, 0] > 0.3) & (x[:, 0] < 0.6)).astype(np.int64)
    assert (next(iter(head.path(x, y, x, 2, [20.0]))).argmax(1) == y).mean() > 0.98
    # log 0.5 + log 0.75, as for the logistic head
    assert head.loss(np.log(np.array([[0.5, 0.5], [0.25, 0.75]])), np.array([0, 1])) == pytest.approx(
        0.980829, abs=1e-6
    )


class Picky:
    @staticmethod
    def suits(data: Data) -> bool:
        return data.path.name == "mine"


def test_a_baseline_says_which_data_it_suits() -> None:
    mine, other = Data(path=Path("mine")), Data(path=Path("other"))
    picky = MethodCard("a+logreg", "baseline", "f", f"{__name__}:Picky", "s")
    plain = MethodCard("a+logreg", "baseline", "f", f"{__name__}:Data", "s")
    assert [suits(card, data) for card in (picky, plain) for data in (mine, other)] == [True, False, True, True]


def test_a_baselines_name_ends_with_its_head() -> None:
    def card(name: str) -> MethodCard:
        return MethodCard(name, "baseline", "f", "m:a", "s")

    assert head_of(card("hand+forest"), seed=7) == Forest(7)
    assert head_of(card("hand+boosting"), seed=7) == Boosting(7)
    with pytest.raises(RequestError, match=r"'hand' must end with \+logreg, \+forest, \+ridge"):
        head_of(card("hand"))
