"""The engine of tiled inference against what needs no tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unlabeled.earth.tile import FLOOR, Outputs, Span, Tile, blended, spans, weights

Values = NDArray[np.float32]
# grid, size, step, halo: no multiple of anything, a halo, no overlap, a grid below one tile on one axis and on both
CASES: list[tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]] = [
    ((23, 31), (8, 8), (4, 4), 0),
    ((23, 31), (8, 10), (4, 5), 1),
    ((40, 17), (16, 16), (8, 8), 4),
    ((24, 32), (8, 8), (8, 8), 0),
    ((5, 31), (8, 8), (3, 3), 2),
    ((5, 6), (8, 8), (4, 4), 2),
    ((8, 8), (8, 8), (4, 4), 0),
]


def gathered(shape: Any, size: Any, step: Any, halo: int, k: int, outputs: Outputs) -> Values:
    """All rows put together; they follow on each other without a gap."""
    found = np.full((k, *shape), np.nan, np.float32)
    at = 0
    for rows, values in blended(shape, size, step, halo, k, outputs):
        assert rows.start == at and values.shape == (k, rows.stop - at, shape[1])
        found[:, rows] = values
        at = rows.stop
    assert at == shape[0]
    return found


def image(k: int, shape: tuple[int, int], seed: int = 0) -> Values:
    return np.random.default_rng(seed).standard_normal((k, *shape)).astype(np.float32)


def cut(whole: Values, tile: Tile) -> Values:
    return whole[:, tile.y.read, tile.x.read]


@pytest.mark.parametrize(("shape", "size", "step", "halo"), CASES)
def test_the_identity_gives_the_grid_back(shape: Any, size: Any, step: Any, halo: int) -> None:
    whole = image(3, shape)
    found = gathered(shape, size, step, halo, 3, lambda tiles: [(t, cut(whole, t)) for t in tiles])
    # a weighted mean of equal numbers: a few roundings of float32
    np.testing.assert_allclose(found, whole, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("shape", "size", "step", "halo"), CASES)
def test_constant_values_stay_constant(shape: Any, size: Any, step: Any, halo: int) -> None:
    def constant(tiles: Sequence[Tile]) -> list[tuple[Tile, Values]]:
        return [(t, np.full((1, t.y.stop - t.y.start, t.x.stop - t.x.start), 2.5, np.float32)) for t in tiles]

    np.testing.assert_allclose(gathered(shape, size, step, halo, 1, constant), 2.5, rtol=1e-6)


@pytest.mark.parametrize(("shape", "size", "step", "halo"), CASES)
def test_normalised_weights_add_up_to_one(shape: Any, size: Any, step: Any, halo: int) -> None:
    """The blend is linear: a tile of ones among zeros gives its own weight, and all of them together 1 in each cell."""
    tiles = [
        Tile(y, x) for y in spans(shape[0], size[0], step[0], halo) for x in spans(shape[1], size[1], step[1], halo)
    ]
    total = np.zeros((1, *shape))
    for one in tiles:
        alone = gathered(
            shape,
            size,
            step,
            halo,
            1,
            lambda row, one=one: [(t, np.full((1, *size), t == one, np.float32)) for t in row],
        )
        assert alone.min() >= 0
        outside = np.ones(shape, bool)
        outside[one.y.kept, one.x.kept] = False
        assert (alone[0][outside] == 0).all()
        total += alone
    np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("halo", [3, 4])
def test_a_convolution_that_sees_no_further_than_the_halo_equals_the_whole_grid(halo: int) -> None:
    """Three 3 x 3 convolutions see 3 cells around; with zeros around the grid in both, tiles change nothing."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        *(
            layer
            for a, b in ((2, 4), (4, 4), (4, 3))
            for layer in (torch.nn.Conv2d(a, b, 3, padding=1), torch.nn.Tanh())
        )
    )

    def run(x: Values) -> Values:
        with torch.inference_mode():
            return np.asarray(net(torch.as_tensor(x)[None])[0].numpy())

    whole = image(2, (41, 37))
    found = gathered((41, 37), (16, 12), (6, 4), halo, 3, lambda tiles: [(t, run(cut(whole, t))) for t in tiles])
    np.testing.assert_allclose(found, run(whole), atol=1e-5)
    # and without a halo it shows where the tiles end
    seen = gathered((41, 37), (16, 12), (16, 12), 0, 3, lambda tiles: [(t, run(cut(whole, t))) for t in tiles])
    assert np.abs(seen - run(whole)).max() > 1e-2


def test_the_order_in_which_tiles_are_given_changes_no_byte() -> None:
    def noise(tile: Tile) -> tuple[Tile, Values]:
        seed = tile.y.start * 1000 + tile.x.start
        return tile, np.random.default_rng(seed).standard_normal((4, 9, 9)).astype(np.float32)

    def run(order: Any) -> bytes:
        return gathered((40, 50), (9, 9), (3, 3), 0, 4, lambda tiles: map(noise, order(tiles))).tobytes()

    assert run(list) == run(lambda tiles: tiles[::-1])
    shuffle = np.random.default_rng(3)
    assert run(list) == run(lambda tiles: [tiles[i] for i in shuffle.permutation(len(tiles))])


def test_tiles_left_out_leave_the_others_as_they_are() -> None:
    """Cells under tiles that were left out only are 0; the mean elsewhere is over the tiles that were given."""
    whole = image(1, (24, 24))
    left = gathered((24, 24), (8, 8), (8, 8), 0, 1, lambda tiles: [(t, cut(whole, t)) for t in tiles if t.x.start])
    assert (left[:, :, :8] == 0).all()
    np.testing.assert_allclose(left[:, :, 8:], whole[:, :, 8:], rtol=1e-6)
    assert (gathered((24, 24), (8, 8), (4, 4), 0, 2, lambda tiles: []) == 0).all()


def test_spans_by_hand() -> None:
    # 21 cells in windows of 8 every 4, of which one cell at either end is dropped; the last window ends with the axis
    assert spans(21, 8, 4, 1) == [
        Span(0, 8, 0, 7),
        Span(4, 12, 5, 11),
        Span(8, 16, 9, 15),
        Span(12, 20, 13, 19),
        Span(13, 21, 14, 21),
    ]
    assert spans(5, 8, 4, 1) == [Span(0, 5, 0, 5)]
    # sin^2 of 45 and 135 degrees is 1/2
    np.testing.assert_allclose(weights(Tile(Span(0, 2, 0, 2), Span(0, 1, 0, 1))), [[0.5 + FLOOR]] * 2, rtol=1e-6)


@pytest.mark.parametrize(("size", "step", "halo"), [(8, 9, 0), (8, 5, 2), (8, 0, 0), (8, 1, 4), (8, 2, -1)])
def test_windows_with_gaps_are_refused(size: int, step: int, halo: int) -> None:
    with pytest.raises(ValueError, match="gaps"):
        spans(20, size, step, halo)


def test_no_more_than_a_row_of_windows_is_held() -> None:
    """Of 4000 rows of 50 cells and 8 values (6.4 MB), a row of windows holds 16 rows: 26 kB, twice for the outputs."""
    import tracemalloc

    def zeros(tiles: Sequence[Tile]) -> list[tuple[Tile, Values]]:
        return [(t, np.zeros((8, 16, 16), np.float32)) for t in tiles]

    tracemalloc.start()
    for _ in blended((4000, 50), (16, 16), (8, 8), 0, 8, zeros):
        pass
    assert tracemalloc.get_traced_memory()[1] < 640_000
    tracemalloc.stop()
