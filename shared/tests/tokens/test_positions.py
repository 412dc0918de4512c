"""Positions from coordinates."""

import numpy as np
import pytest
import torch

from unlabeled.core.tokens.patches import grid_coords
from unlabeled.core.tokens.positions import in_patches, interpolate, rotary, rotate, sincos


def one_axis(width, position):
    """He et al. 2022: omega_i = 10000^(-i / (width/2)); [sin(position * omega), cos(position * omega)]."""
    omega = 1 / 10000 ** (np.arange(width // 2) / (width / 2))
    angle = np.outer(position, omega)
    return np.concatenate([np.sin(angle), np.cos(angle)], 1)


@pytest.mark.parametrize("width", [48, 36])
def test_two_axes_equal_mae(width):
    # MAE's grid is meshgrid(w, h): the first half of the width encodes w, although its code calls that half emb_h
    height, width_cells = 3, 5
    h, w = np.divmod(np.arange(height * width_cells), width_cells)
    expected = np.concatenate([one_axis(width // 2, w), one_axis(width // 2, h)], 1)
    coords = grid_coords((height, width_cells), (16, 8), torch.tensor([[0.5, 2.0]], dtype=torch.float64))
    out = sincos(in_patches(coords, (8.0, 16.0)), width)
    np.testing.assert_allclose(out[0].numpy(), expected, atol=1e-12)


def test_three_axes_leave_the_rest_of_the_width_zero():
    # width 20 over 3 axes: floor(20 / 6) = 3 frequencies, 6 numbers an axis, 18 used, 2 left
    position = torch.tensor([[[0.3, 1.7, 2.9]]], dtype=torch.float64)
    out = sincos(position, 20)[0].numpy()
    expected = np.concatenate([one_axis(6, [p]) for p in (2.9, 1.7, 0.3)], 1)
    np.testing.assert_allclose(out[:, :18], expected, atol=1e-12)
    assert (out[:, 18:] == 0).all()


def test_half_precision_coordinates_become_single():
    assert sincos(torch.zeros(1, 1, 1, dtype=torch.float16), 4).dtype == torch.float32


@pytest.mark.parametrize("grid", [(5,), (3, 4), (2, 3, 4), (1, 4)])
def test_table_is_exact_on_the_grid(grid):
    table = torch.randn(*grid, 6, dtype=torch.float64)
    coords = grid_coords(grid, (2,) * len(grid), torch.ones(1, len(grid), dtype=torch.float64))
    out = interpolate(table, in_patches(coords, (2.0,) * len(grid)))
    assert torch.equal(out[0], table.reshape(-1, 6))


def test_table_is_linear_between_and_constant_outside():
    # a table that is linear in its indices is reproduced everywhere inside: t[i, j] = 2 i - 3 j
    i, j = torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij")
    table = (2 * i - 3 * j)[..., None].double()
    inside = torch.tensor([[[0.25, 3.5], [2.9, 0.1]]], dtype=torch.float64)
    torch.testing.assert_close(interpolate(table, inside)[0, :, 0], 2 * inside[0, :, 0] - 3 * inside[0, :, 1])
    # (-1, 9) is clamped to (0, 4)
    assert interpolate(table, torch.tensor([[[-1.0, 9.0]]]))[0, 0, 0] == -12


def test_a_turn_is_the_product_with_a_complex_number():
    # RoFormer, eq. 34: the pair (x_i, x_{i + w/2}) times exp(1j * position * 100^(-i/n)); for two axes n = 12 / 4 = 3
    position = torch.tensor([[[0.0, 0.0], [1.0, 2.5]]], dtype=torch.float64)
    x = torch.randn(1, 2, 2, 12, dtype=torch.float64)
    out = rotate(x, rotary(position, 12))
    assert torch.equal(out[:, :, 0], x[:, :, 0])
    frequency = 100.0 ** -(np.arange(3) / 3)
    angle = np.concatenate([1.0 * frequency, 2.5 * frequency])
    pairs = x[0, :, 1].numpy()
    expected = (pairs[:, :6] + 1j * pairs[:, 6:]) * np.exp(1j * angle)
    np.testing.assert_allclose(out[0, :, 1], np.concatenate([expected.real, expected.imag], 1), atol=1e-12)


def test_pairs_that_no_axis_takes_stay():
    # 10 channels are 5 pairs: two axes take 2 each, and one is left
    position = torch.tensor([[[3.0, 4.0]]], dtype=torch.float64)
    x = torch.randn(1, 1, 1, 10, dtype=torch.float64)
    out = rotate(x, rotary(position, 10))
    assert torch.equal(out[..., [4, 9]], x[..., [4, 9]])
    assert (out - x)[..., [0, 1, 2, 3, 5, 6, 7, 8]].abs().min() > 1e-3
    torch.testing.assert_close(out.norm(), x.norm())


def test_turned_products_depend_on_differences_of_positions():
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float64)

    def product(a, b):
        return (
            rotate(q, rotary(torch.tensor([[[a]]]).double(), 8)) * rotate(k, rotary(torch.tensor([[[b]]]).double(), 8))
        ).sum()

    torch.testing.assert_close(product(3.0, 5.0), product(103.0, 105.0), rtol=0, atol=1e-12)
    assert (product(3.0, 5.0) - product(5.0, 3.0)).abs() > 1e-3
    assert rotary(torch.zeros(1, 1, 1, dtype=torch.float16), 4)[0].dtype == torch.float32
