"""From stamps to the grid. The signal is a ramp, value = seconds, so a right interpolation gives back the grid itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from unlabeled.biosignal.timing import Part, regular
from unlabeled.core.contracts import BadInput

STEP = 0.02
GRID = np.arange(100, dtype=np.float64) * np.float64(STEP)


def ramp(time: NDArray[Any], rate: float | None = None, max_gap: float = 60.0) -> list[Part]:
    return regular(time, time[None].copy(), rate, max_gap, "a.csv")


def test_regular_stamps_pass_through() -> None:
    (part,) = ramp(GRID)
    assert part.step == STEP and part.flags == ()
    np.testing.assert_array_equal(part.values[0], GRID)


def test_repeated_and_unsorted_rows() -> None:
    order = np.arange(100)
    order[[30, 31]] = [31, 30]
    time = np.insert(GRID[order], 50, GRID[50])
    (part,) = ramp(time)
    np.testing.assert_array_equal(part.values[0], GRID)
    assert part.flags == ("rows sorted by time", "1 row with a repeated time stamp dropped")


def test_clock_jump_splits() -> None:
    first, second = ramp(np.concatenate([GRID + 7200, GRID[:60]]))
    assert (first.values.shape, second.values.shape) == ((1, 100), (1, 60))
    assert first.flags == second.flags == ("split where the clock falls back (1 time)",)
    # 0.98 s back is disorder of the rows: one part, sorted
    (part,) = ramp(np.concatenate([GRID[60:], GRID[50:60]]))
    np.testing.assert_array_equal(part.values[0], GRID[50:])


def test_two_missing_samples_are_bridged_and_three_are_not() -> None:
    (two,) = ramp(np.delete(GRID, [40, 41]))
    np.testing.assert_allclose(two.values[0], GRID, atol=1e-12)
    assert two.flags == ("2 missing samples interpolated",)
    (three,) = ramp(np.delete(GRID, [40, 41, 42]))
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(three.values[0])), [40, 41, 42])
    assert three.flags == ("1 gap marked invalid, 0.06 s",)  # 3 samples of 0.02 s


def test_jitter_is_interpolated_and_gaps_stay_invalid() -> None:
    late = GRID + 0.3 * STEP * np.sin(np.arange(100))  # at most 0.006 s beside the grid
    time = np.delete(late, slice(50, 60))
    (part,) = ramp(time, rate=50.0)
    assert part.flags == ("irregular time steps interpolated to the grid", "1 gap marked invalid, 0.22 s")
    seen = ~np.isnan(part.values[0])
    # a ramp stays a ramp under linear interpolation, from its own first stamp on
    np.testing.assert_allclose(part.values[0, seen], (time[0] + np.arange(len(seen)) * STEP)[seen], atol=1e-12)
    # rows 50 to 59 are gone, and the grid point beside one of the gap's ends lies inside it too
    assert (~seen).sum() == 11 and not seen[50:60].any()


def test_slow_clock_is_brought_to_the_whole_rate() -> None:
    # 49.98 Hz is 0.04 % off 50: the grid is 50 Hz, and the 3,000 rows last 60.004 s of it
    (part,) = ramp(np.arange(3000) / 49.98)
    assert part.step == STEP and part.values.shape == (1, 3001)
    np.testing.assert_allclose(part.values[0], np.arange(3001) * STEP, atol=1e-9)
    # 49.5 Hz is 1 % off and stays what it is
    (part,) = ramp(np.arange(100) / 49.5)
    assert part.step == pytest.approx(1 / 49.5, rel=1e-9)


def test_long_gap_splits_instead_of_filling_memory() -> None:
    years = 10 * 365 * 86400.0
    first, second = ramp(np.concatenate([GRID, GRID + years]))
    assert first.values.shape == second.values.shape == (1, 100)
    assert first.flags == ("split at 1 gap of more than 60 s",)
    # one stamp alone is no recording
    (only,) = ramp(np.concatenate([GRID, [years]]))
    assert only.flags == ("split at 1 gap of more than 60 s", "1 lone row dropped")
    # 5 s stay inside, invalid: rows at 0 to 1.98 s and 6.98 s on, 249 grid points between
    (whole,) = ramp(np.concatenate([GRID, GRID + GRID[-1] + 5]))
    assert int(np.isnan(whole.values).sum()) == 249


def test_slow_rates_are_rates() -> None:
    (part,) = ramp(np.arange(50) * 3600.0)
    assert part.step == 3600.0 and part.values.shape == (1, 50)


def test_nan_stays_where_it_is() -> None:
    values = GRID[None].copy()
    values[0, 20] = np.nan
    (part,) = regular(np.delete(GRID, 60), np.delete(values, 60, axis=1), None, 60.0, "a.csv")
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(part.values[0])), [20])


def test_rate_within_a_percent() -> None:
    (part,) = ramp(GRID, rate=50.4)
    assert part.step == 1 / 50.4
    with pytest.raises(BadInput, match=r"a\.csv: the time column runs at 50 Hz, the stated rate is 50\.6 Hz"):
        ramp(GRID, rate=50.6)
