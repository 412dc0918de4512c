"""Patches of any rank."""

import pytest
import torch

from unlabeled.core.contracts.batch import Dense
from unlabeled.core.tokens.patches import (
    dense_tokens,
    grid_coords,
    grid_of,
    pad_to_patches,
    patch_valid,
    patchify,
    unpatchify,
)

CASES = [((12,), (4,)), ((6, 8), (3, 2)), ((4, 6, 10), (2, 3, 5))]


@pytest.mark.parametrize(("shape", "patch"), CASES)
def test_round_trip(shape, patch):
    x = torch.randn(2, 3, *shape)
    grid = grid_of(shape, patch)
    assert torch.equal(unpatchify(patchify(x, patch), grid, patch), x)


@pytest.mark.parametrize(("shape", "patch"), CASES)
def test_every_element_by_its_definition(shape, patch):
    # element (i, c) of patch l is x[c, grid index of l * patch + offset i], patches and offsets in raster order
    x = torch.randn(1, 3, *shape)
    out = patchify(x, patch)[0]
    grid = grid_of(shape, patch)
    for at, where in enumerate(torch.cartesian_prod(*map(torch.arange, grid)).reshape(-1, len(grid))):
        cells = torch.cartesian_prod(*map(torch.arange, patch)).reshape(-1, len(patch)) + where * torch.tensor(patch)
        assert torch.equal(out[at].reshape(-1, 3), x[(0, slice(None), *cells.T)].T)


def test_two_axes_as_mae_einsum():
    # MAE: reshape (n, c, h, p, w, q), einsum nchpwq->nhwpqc
    x = torch.randn(2, 3, 8, 12)
    expected = torch.einsum("nchpwq->nhwpqc", x.reshape(2, 3, 2, 4, 3, 4)).reshape(2, 6, 48)
    assert torch.equal(patchify(x, (4, 4)), expected)


def test_a_grid_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"\(7,\) cannot be cut into patches of \(4,\)"):
        patchify(torch.zeros(1, 1, 7), (4,))


def test_coordinates_are_centres_in_units():
    # anisotropic: patches of 2 x 3 cells of 5 mm x 0.5 mm are 10 mm x 1.5 mm, so centres at 5, 15 and 0.75, 2.25, 3.75
    spacing = torch.tensor([[5.0, 0.5], [1.0, 1.0]], dtype=torch.float64)
    coords = grid_coords((2, 3), (2, 3), spacing)
    expected = [[5, 0.75], [5, 2.25], [5, 3.75], [15, 0.75], [15, 2.25], [15, 3.75]]
    assert torch.equal(coords[0], torch.tensor(expected, dtype=torch.float64))
    # with spacing 1 the same patch has its centre at 1 and 1.5
    assert coords[1, 0].tolist() == [1.0, 1.5]


def test_padding_is_invalid():
    # 5 x 7 in patches of 4 x 4: padded to 8 x 8, of whose 64 cells 35 are valid
    dense = Dense(torch.ones(1, 2, 5, 7), torch.ones(1, 1, 5, 7, dtype=torch.bool), torch.ones(1, 2))
    padded = pad_to_patches(dense, (4, 4))
    assert padded.values.shape == (1, 2, 8, 8)
    assert padded.values.sum() == 70
    assert padded.valid.sum() == 35
    assert pad_to_patches(padded, (4, 4)) is padded


def test_validity_of_elements_and_tokens():
    valid = torch.tensor([[[1, 1, 0, 0, 0, 1]]], dtype=torch.bool)
    elements, tokens = patch_valid(valid, (2,), channels=2)
    assert tokens.tolist() == [[True, False, True]]
    # channels last: the last patch holds (cell 4: no, no), (cell 5: yes, yes)
    assert elements[0, 2].tolist() == [False, False, True, True]
    by_channel = torch.stack([valid[:, 0], ~valid[:, 0]], 1)
    elements, tokens = patch_valid(by_channel, (2,), channels=2)
    assert tokens.all()
    assert elements[0, 0].tolist() == [True, False, True, False]


def test_invalid_values_never_reach_a_token():
    values = torch.full((1, 1, 6), torch.nan)
    values[..., :3] = 1
    dense = Dense(values, ~values.isnan(), torch.ones(1, 1))
    tokens = dense_tokens(dense, (2,))
    assert tokens.patches.tolist() == [[[1, 1], [1, 0], [0, 0]]]
    assert tokens.valid.tolist() == [[True, True, False]]
    taken = tokens.take(torch.tensor([[1, 0]]), torch.tensor([[True, False]]))
    assert taken.patches.tolist() == [[[1, 0], [0, 0]]]
    assert taken.valid.tolist() == [[True, False]]
    assert taken.coords.tolist() == [[[3.0], [0.0]]]
