"""Baselines: features whose values are known, and that what is invalid does not count."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from unlabeled.biosignal.baselines import BANDS, Hand, MiniRocket
from unlabeled.core.contracts import Input, RequestError, Sample

CHANNELS = ("acc_x", "acc_y", "acc_z", "ppg")
RATE = 50.0


def sample(data: NDArray[np.floating], valid: NDArray[np.bool_] | None = None) -> Sample:
    x = Input(
        data.astype(np.float32), CHANNELS[: len(data)], ("",) * len(data), unit="s", spacing=(1 / RATE,), valid=valid
    )
    return Sample({"x": x}, "a", "s1")


def tone(hertz: float, samples: int = 200) -> NDArray[np.floating]:
    return np.asarray(np.sin(2 * np.pi * hertz * np.arange(samples) / RATE + 0.1))


def test_values_of_a_tone() -> None:
    # 4 s of a 3 Hz tone of amplitude 2 around 5: 12 whole periods
    data = np.stack([5 + 2 * tone(3.0), tone(3.0), np.zeros(200), -tone(3.0)])
    (row,) = Hand().features([sample(data)])
    assert row.shape == (19 * 4 + 17 + 6,) and np.isfinite(row).all()
    statistics, changes, spectrum = np.split(row[: 19 * 4], [8 * 4, 11 * 4])
    mean, deviation, rms, low, *_, high = statistics[:8]
    assert (mean, deviation) == (pytest.approx(5, abs=1e-6), pytest.approx(2 / np.sqrt(2), rel=1e-6))
    assert rms == pytest.approx(np.sqrt(25 + 2), rel=1e-6)
    assert (low, high) == (pytest.approx(3, abs=0.01), pytest.approx(7, abs=0.01))
    step, zero, middle = changes[:3]
    # mean |dx| of a sine of amplitude A at f is 4 A f / rate: it travels 4 A per period
    assert step == pytest.approx(4 * 2 * 3 / RATE, rel=0.01)
    # it never crosses 0, and its mean at every multiple of pi from 0.1 to 24 pi - 0.28: 23 times in 199 steps
    assert (zero, middle) == (0, pytest.approx(23 / 199))
    frequency, _, *shares = spectrum[:8]
    # a Hann window spreads a tone at a bin over that bin and its neighbours, 2.75 to 3.25 Hz: all in one band
    assert frequency == 3.0 and shares[BANDS.index((2.0, 4.0))] == pytest.approx(1, abs=1e-6)
    # pairs in order: x-y, x-z, x-ppg, y-z, y-ppg, z-ppg; the constant z correlates with nothing
    np.testing.assert_allclose(row[-6:], [1, 0, -1, 0, -1, 0], atol=1e-6)


def test_norm_of_the_triplet() -> None:
    # (3, 4, 0) has the norm 5 at every sample, and a constant norm has no spread and no power
    data = np.stack([np.full(100, 3.0), np.full(100, 4.0), np.zeros(100)])
    (row,) = Hand().features([sample(data)])
    norm = row[19 * 3 : 19 * 3 + 17]
    np.testing.assert_allclose(norm[:9], [5, 0, 5, 5, 5, 5, 5, 5, 0], atol=1e-6)
    assert norm[10] == -12  # log10 of no power at all, kept finite by 1e-12


def test_invalid_samples_do_not_count() -> None:
    rng = np.random.default_rng(0)
    data = rng.normal(size=(4, 200))
    valid = np.ones((1, 200), bool)
    valid[:, 150:] = False
    spoiled = np.where(valid, data, 1e6)
    (row,) = Hand().features([sample(spoiled, valid)])
    (short,) = Hand().features([sample(data[:, :150])])
    # what involves no spectrum equals the features of the valid part alone
    np.testing.assert_allclose(row[: 11 * 4], short[: 11 * 4], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(row[-6:], short[-6:], rtol=1e-4, atol=1e-6)
    (dead,) = Hand().features([sample(data, np.zeros((1, 200), bool))])
    assert np.isfinite(dead).all() and (dead[: 11 * 4] == 0).all()


def test_windows_must_be_alike() -> None:
    with pytest.raises(RequestError, match="windows of one length"):
        Hand().features([sample(np.ones((4, 50))), sample(np.ones((4, 51)))])


def test_hand_features_tell_cadences_apart() -> None:
    rng = np.random.default_rng(0)
    slow, fast = (
        [
            sample(np.stack([tone(f + 0.1 * rng.normal()) for _ in range(4)]) + 0.3 * rng.normal(size=(4, 200)))
            for _ in range(20)
        ]
        for f in (1.5, 3.0)
    )
    frequency = Hand().fit(slow).features(slow + fast)[:, 11 * 4]
    assert (frequency[:20] < 2.25).all() and (frequency[20:] > 2.25).all()


@pytest.mark.slow
def test_minirocket_is_seeded_and_shares_lie_in_0_to_1() -> None:
    pytest.importorskip("aeon")
    rng = np.random.default_rng(0)
    train, test = ([sample(rng.normal(size=(4, 160))) for _ in range(n)] for n in (12, 3))
    first = MiniRocket(seed=1).fit(train).features(test)
    assert first.shape == (3, 9996) and first.min() >= 0 and first.max() <= 1
    np.testing.assert_array_equal(first, MiniRocket(seed=1).fit(train).features(test))
    assert not np.array_equal(first, MiniRocket(seed=2).fit(train).features(test))
    # the biases are quantiles of the training windows, so their shares of positive responses are one half on average
    assert MiniRocket(seed=1).fit(train).features(train).mean() == pytest.approx(0.5, abs=0.05)
    with pytest.raises(RequestError, match="windows of 9 samples or more, these have 8"):
        MiniRocket().fit([sample(np.ones((4, 8)))])


def test_without_aeon_the_mend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aeon.transformations.collection", None)
    with pytest.raises(RequestError, match=r"pip install 'unlabeled-biosignal\[baselines\]'"):
        MiniRocket().fit([sample(np.ones((4, 50)))])
