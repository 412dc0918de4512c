import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score

from unlabeled.core.measures import multilabel
from unlabeled.core.measures.intervals import over_groups, paired
from unlabeled.core.measures.multilabel import BINS, histograms, macro_ap, macro_f1, micro_ap, micro_f1


def made(n: int, classes: int, seed: int = 0, ties: int = 0) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Scores that know a part of the truth; rarer and rarer classes; `ties`: scores are multiples of 1 / ties."""
    rng = np.random.default_rng(seed)
    truth = rng.random((n, classes)) < 0.5 / (1 + np.arange(classes))
    score = 1 / (1 + np.exp(-(rng.normal(size=truth.shape) + 2 * truth - 1)))
    return truth, np.round(score * ties) / ties if ties else score


@pytest.mark.parametrize("ties", [0, 7])
def test_equals_sklearn_where_every_positive_has_its_bin(ties: int) -> None:
    truth, score = made(200, 4, ties=ties)
    group = np.random.default_rng(1).integers(0, 9, 200)
    whole = histograms(truth, score, group, 9).sum(0)
    for of, how in ((macro_ap, "macro"), (micro_ap, "micro")):
        assert float(of(whole)) == pytest.approx(average_precision_score(truth, score, average=how), abs=1e-12)
    for of, how in ((macro_f1, "macro"), (micro_f1, "micro")):
        assert float(of(whole)) == pytest.approx(f1_score(truth, score > 0.5, average=how), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_binned_scores_are_within_a_thousandth_of_sklearn(seed: int) -> None:
    # 20,000 records: 10,000 positives of the first class, 28,000 of all, so that many share a bin
    truth, score = made(20_000, 6, seed)
    assert truth[:, 0].sum() > 2 * BINS
    whole = histograms(truth, score, np.zeros(len(truth), np.int64), 1)[0]
    assert whole.shape[-1] == BINS + 1
    for of, how in ((macro_ap, "macro"), (micro_ap, "micro")):
        assert float(of(whole)) == pytest.approx(average_precision_score(truth, score, average=how), abs=1e-3)


def test_the_error_of_bins_stays_below_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Orders made to hurt: all positives of a bin first, or all of them last; the bound of 2 / BINS times 2 ln P + 3."""
    monkeypatch.setattr(multilabel, "BINS", 10)
    for order in ([1] * 10 + [0] * 40, [0] * 40 + [1] * 10, [1] + [0] * 9):
        truth = np.array([order * 10], bool).T
        score = np.linspace(0.4, 0.1, len(truth))[:, None]
        exact = average_precision_score(truth, score)
        found = float(macro_ap(histograms(truth, score, np.zeros(len(truth), np.int64), 1)[0]))
        assert abs(found - exact) <= 2 / 10 * (2 * np.log(truth.sum()) + 3)
        # one positive a bin, with all that lies above it, is exact however few the bins
        if truth.sum() == 10:
            assert found == pytest.approx(exact, abs=1e-12)


def test_a_class_without_a_positive_is_left_out_and_not_counted_as_zero() -> None:
    # a perfect ranking of the first class; nobody has the second: 1, where torchmetrics says 1/2
    truth = np.array([[1, 0], [0, 0], [1, 0]], bool)
    score = np.array([[0.9, 0.2], [0.1, 0.8], [0.7, 0.1]])
    whole = histograms(truth, score, np.zeros(3, np.int64), 1)[0]
    assert float(macro_ap(whole)) == 1.0 and float(macro_f1(whole)) == 1.0
    # in one ranking the 0.8 stands between the positives: (1 + 2/3) / 2; F1 = 2 * 2 / (2 + 3)
    assert float(micro_ap(whole)) == pytest.approx(5 / 6) and float(micro_f1(whole)) == pytest.approx(0.8)
    nobody = histograms(np.zeros((3, 2), bool), score, np.zeros(3, np.int64), 1)[0]
    assert all(np.isnan(of(nobody)) for of in (macro_ap, micro_ap, macro_f1, micro_f1))
    assert histograms(np.zeros((0, 2), bool), np.zeros((0, 2)), np.zeros(0, np.int64), 3).shape == (3, 2, 3, 2, 1)


def test_one_half_is_not_above_one_half() -> None:
    truth, score = np.array([[True], [True]]), np.array([[0.5], [np.nextafter(0.5, 1)]])
    # one of two found, none too many: 2 * 1 / (2 + 1)
    assert float(macro_f1(histograms(truth, score, np.zeros(2, np.int64), 1)[0])) == pytest.approx(2 / 3)


def test_a_resample_of_groups_scores_as_its_records_do() -> None:
    """Groups drawn 2, 0, 1 and 3 times: the histogram's sum gives what sklearn says of the records so repeated."""
    truth, score = made(60, 3, seed=4)
    group = np.arange(60) % 4
    times = np.array([2, 0, 1, 3])
    drawn = np.tensordot(times, histograms(truth, score, group, 4), axes=(0, 0))
    again = np.repeat(np.arange(60), times[group])
    assert float(macro_ap(drawn)) == pytest.approx(average_precision_score(truth[again], score[again]), abs=1e-12)
    assert float(micro_ap(drawn)) == pytest.approx(
        average_precision_score(truth[again], score[again], average="micro"), abs=1e-12
    )


def test_intervals_hold_the_score_and_do_not_depend_on_how_many_resamples_are_held_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth, score = made(120, 3, seed=5)
    group = np.arange(120) % 10
    ours = histograms(truth, score, group, 10)
    constant = histograms(truth, np.broadcast_to(truth.mean(0), truth.shape), group, 10)
    found, gain = over_groups(macro_ap, ours, seed=0, resamples=300), paired(macro_ap, ours, constant, 0, 300)
    assert found.low < found.mean < found.high and gain.low > 0
    # equal scores rank nothing: a class's average precision is its share
    assert float(macro_ap(constant.sum(0))) == pytest.approx(truth.mean(0).mean(), abs=1e-12)
    monkeypatch.setattr("unlabeled.core.measures.intervals.AT_ONCE", 7 * ours[0].size)
    assert over_groups(macro_ap, ours, seed=0, resamples=300) == found
