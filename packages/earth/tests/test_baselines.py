"""Baselines: features whose values are known, and that what is invalid does not count."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from unlabeled.core.contracts import Input, RequestError, Sample
from unlabeled.core.contracts.domain import load
from unlabeled.earth import domain
from unlabeled.earth.baselines import Bands, Mosaiks, Statistics, WindowStatistics

BANDS = 3


def sample(data: NDArray[np.floating], valid: NDArray[np.bool_] | None = None) -> Sample:
    names = tuple(f"B{i + 1}" for i in range(len(data)))
    x = Input(data.astype(np.float32), names, ("",) * len(data), unit="m", spacing=(10.0, 10.0), valid=valid)
    return Sample({"x": x}, "a", "block")


def scene(seed: int = 0, size: tuple[int, int] = (20, 24)) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(2, 3, (BANDS, *size)).astype(np.float32)


def half_hidden() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The right half is nodata, and holds what would spoil any mean."""
    data, valid = scene(), np.ones((1, 20, 24), bool)
    valid[..., 12:] = False
    spoiled = data.copy()
    spoiled[..., 12:18], spoiled[..., 18:] = 1e6, np.nan
    return spoiled, valid


EVERYWHERE = np.argwhere(np.ones((20, 24), bool))


def test_bands_are_the_cells_own_values() -> None:
    data = scene()
    at = np.array([[0, 0], [19, 23], [7, 3]])
    np.testing.assert_array_equal(Bands().fit([]).cells(sample(data), at), data[:, [0, 19, 7], [0, 23, 3]].T)
    spoiled, valid = half_hidden()
    found = Bands().cells(sample(spoiled, valid), np.array([[3, 2], [3, 13], [3, 20]]))
    np.testing.assert_array_equal(found, np.stack([data[:, 3, 2], np.zeros(3), np.zeros(3)]))


def test_statistics_of_known_values() -> None:
    # 0..3 once each: mean 3/2, variance (2.25 + .25 + .25 + 2.25) / 4 = 5/4
    data = np.stack([np.arange(4.0).reshape(2, 2), np.full((2, 2), 7.0)])
    (row,) = Statistics().features([sample(data)])
    np.testing.assert_allclose(row, [1.5, 7, np.sqrt(1.25), 0, 0, 7, 3, 7], rtol=1e-12)


def test_statistics_know_no_arrangement() -> None:
    data = scene()
    order = np.random.default_rng(1).permutation(20 * 24)
    shuffled = data.reshape(BANDS, -1)[:, order].reshape(data.shape)
    a, b = Statistics().features([sample(data), sample(shuffled)])
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_statistics_of_the_valid_part_alone() -> None:
    spoiled, valid = half_hidden()
    # windows need not be of one size
    a, b = Statistics().features([sample(spoiled, valid), sample(scene()[..., :12])])
    np.testing.assert_allclose(a, b, rtol=1e-12)
    (dead,) = Statistics().features([sample(spoiled, np.zeros((1, 20, 24), bool))])
    np.testing.assert_array_equal(dead, np.zeros(4 * BANDS))


def windows_by_loop(
    data: NDArray[np.floating], valid: NDArray[np.bool_], at: NDArray[np.int64]
) -> NDArray[np.floating]:
    rows = []
    for y, x in at:
        row = []
        for size in (3, 7, 15):
            r = size // 2
            cut = (slice(None), slice(max(0, y - r), y + r + 1), slice(max(0, x - r), x + r + 1))
            inside = [band[there].astype(np.float64) for band, there in zip(data[cut], valid[cut], strict=True)]
            row += [band.mean() if len(band) else 0 for band in inside]
            row += [band.std() if len(band) else 0 for band in inside]
        rows.append(row)
    return np.array(rows)


def test_window_statistics_equal_a_loop() -> None:
    data = scene()
    found = WindowStatistics().cells(sample(data), EVERYWHERE)
    np.testing.assert_allclose(found, windows_by_loop(data, np.ones_like(data, bool), EVERYWHERE), rtol=1e-9, atol=1e-9)


def test_window_statistics_over_valid_cells_only() -> None:
    data, _ = half_hidden()
    valid = np.random.default_rng(2).random((BANDS, 20, 24)) < 0.3
    valid[..., 12:] = False
    found = WindowStatistics().cells(sample(data, valid), EVERYWHERE)
    assert np.isfinite(found).all()
    # where one cell is valid the variance is rounding, about 1e-13, and its root is not 0
    np.testing.assert_allclose(found, windows_by_loop(data, valid, EVERYWHERE), rtol=1e-9, atol=1e-6)


def test_window_statistics_of_a_level_field() -> None:
    # a raw 16-bit value everywhere: its deviation is 0, and no rounding of running sums
    found = WindowStatistics().cells(sample(np.full((1, 40, 40), 54321.0)), EVERYWHERE)
    np.testing.assert_allclose(found, np.tile([54321.0, 0], (480, 3)), rtol=1e-12)


@pytest.fixture(scope="module")
def learned() -> Mosaiks:
    return Mosaiks(seed=3, filters=100).fit([sample(scene(i)) for i in range(4)])


def test_mosaiks_equals_a_loop(learned: Mosaiks) -> None:
    """Responses of the whitened surroundings, cell by cell."""
    data = scene(9, (8, 9))
    centred = np.pad(data - learned._middle[:, None, None], ((0, 0), (1, 1), (1, 1)))
    responses = np.zeros((100, 8, 9))
    for y, x in np.ndindex(8, 9):
        responses[:, y, x] = learned._weights @ centred[:, y : y + 3, x : x + 3].reshape(-1)
    positive, negative = np.maximum(responses - 1, 0), np.maximum(-responses - 1, 0)
    # filters come in chunks of 64, each with its positive responses before its negative ones
    maps = np.concatenate([positive[:64], negative[:64], positive[64:], negative[64:]])
    (row,) = learned.features([sample(data)])
    np.testing.assert_allclose(row, maps.mean((1, 2)), rtol=1e-6, atol=1e-9)
    at = np.array([[0, 0], [4, 4], [7, 2]])
    near = [maps[:, :4, :4], maps[:, 1:8, 1:8], maps[:, 4:, :6]]  # 7 x 7 around, cut at the edges
    expected = np.stack([m.mean((1, 2)) for m in near])
    np.testing.assert_allclose(learned.cells(sample(data), at), expected, rtol=1e-6, atol=1e-9)


def test_mosaiks_whitening() -> None:
    """ZCA of the ridge r: variances v become v / (v + r mean(v)); without it filters are patches of unit length."""
    records = [sample(scene(i)) for i in range(4)]
    rng = np.random.default_rng(0)
    plain = Mosaiks(filters=7, whiten=False).fit(records)
    np.testing.assert_allclose(np.linalg.norm(plain._weights, axis=1), 1, rtol=1e-12)
    # correlated cells: a field smoothed along x has little power in its differences, the whitened one has more
    rough = rng.normal(size=(1, 60, 60))
    smooth = (rough[..., :-2] + rough[..., 1:-1] + rough[..., 2:]) / 3
    whitened = Mosaiks(filters=200).fit([sample(smooth)])
    flat = Mosaiks(filters=200, whiten=False).fit([sample(smooth)])

    def along_x(m: Mosaiks) -> float:
        w = m._weights.reshape(-1, 3, 3)
        return float((np.diff(w, axis=2) ** 2).sum() / (w**2).sum())

    assert along_x(whitened) > 1.5 * along_x(flat)


def test_mosaiks_is_seeded() -> None:
    records = [sample(scene(i)) for i in range(4)]
    first = Mosaiks(seed=1, filters=10).fit(records).features(records)
    assert first.shape == (4, 20) and first.min() >= 0 and first.max() > 0
    np.testing.assert_array_equal(first, Mosaiks(seed=1, filters=10).fit(records).features(records))
    assert not np.array_equal(first, Mosaiks(seed=2, filters=10).fit(records).features(records))


def test_mosaiks_leaves_out_what_is_invalid(learned: Mosaiks) -> None:
    spoiled, valid = half_hidden()
    found = learned.cells(sample(spoiled, valid), EVERYWHERE)
    alone = learned.cells(sample(scene()[..., :12]), EVERYWHERE[EVERYWHERE[:, 1] < 12])
    # beyond the valid part is the mean of the band, as beyond the record
    np.testing.assert_allclose(found[EVERYWHERE[:, 1] < 12], alone, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(found[EVERYWHERE[:, 1] >= 12 + 3], 0)
    a, b = learned.features([sample(spoiled, valid), sample(scene()[..., :12])])
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(learned.features([sample(spoiled, np.zeros((1, 20, 24), bool))]), 0)


def test_mosaiks_draws_whole_patches_only() -> None:
    spoiled, valid = half_hidden()
    hidden, seen = Mosaiks(seed=1, filters=9), Mosaiks(seed=1, filters=9)
    np.testing.assert_allclose(
        hidden.fit([sample(spoiled, valid)])._weights, seen.fit([sample(scene()[..., :12])])._weights, rtol=1e-9
    )
    valid[:] = False
    for nothing in ([sample(spoiled, valid)], [sample(np.ones((BANDS, 2, 9)))], []):
        with pytest.raises(RequestError, match="a patch of 3 x 3 valid cells"):
            Mosaiks().fit(nothing)


def test_one_value_everywhere_is_no_trouble() -> None:
    flat = [sample(np.full((BANDS, 9, 9), 4.0))]
    model = Mosaiks(filters=5).fit(flat)
    np.testing.assert_array_equal(model.features(flat), 0)
    np.testing.assert_array_equal(model.cells(flat[0], np.array([[4, 4]])), 0)


def test_cards_begin_with_what_ours_is_joined_with() -> None:
    """The first card with logistic regression that knows cells, and the first that knows windows."""
    linear = [c for c in domain.baselines if c.name.endswith("+logreg")]
    assert next(c.name for c in linear if hasattr(load(c.target), "cells")) == "windows+logreg"
    assert next(c.name for c in linear if hasattr(load(c.target), "features")) == "statistics+logreg"
