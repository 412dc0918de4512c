"""Changes of single patches."""

import torch

from unlabeled.core.tokens.blur import blurred
from unlabeled.core.tokens.tokens import Tokens

# two tokens of two cells of two channels; of the second only the first cell is valid
PATCHES = torch.tensor([[[1.0, 10, 3, 30], [5, 7, 0, 0]]])
ELEMENTS = torch.tensor([[[True] * 4, [True, True, False, False]]])
TOKENS = Tokens.of(PATCHES, ELEMENTS, torch.zeros(1, 2, 1))


def made(chosen, share, noise=0.0):
    given = torch.tensor([chosen]), torch.tensor([share]), torch.full((1, 2, 4), noise)
    return blurred(TOKENS, *given, channels=2).patches[0].tolist()


def test_cells_go_to_the_mean_of_their_channel():
    # means (1 + 3) / 2 = 2 and (10 + 30) / 2 = 20; of the second patch those of its only valid cell
    assert made([True, True], [1.0, 1.0]) == [[2, 20, 2, 20], [5, 7, 0, 0]]
    assert made([True, True], [0.5, 0.5]) == [[1.5, 15, 2.5, 25], [5, 7, 0, 0]]
    assert made([True, True], [0.0, 0.0]) == PATCHES[0].tolist()


def test_only_chosen_and_valid_elements_change():
    assert made([False, True], [1.0, 1.0], 0.5) == [[1, 10, 3, 30], [5.5, 7.5, 0, 0]]
    assert made([True, False], [1.0, 1.0], 0.5) == [[2.5, 20.5, 2.5, 20.5], [5, 7, 0, 0]]
