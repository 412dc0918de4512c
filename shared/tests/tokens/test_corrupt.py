"""Corruption of hidden patches."""

import pytest
import torch

from unlabeled.core.streams import uniform
from unlabeled.core.tokens.corrupt import NOISE, OTHER, ZEROS, corrupted, kinds
from unlabeled.core.tokens.tokens import Tokens


def test_shares_of_the_kinds():
    # of n = 20000 draws a share p has the standard deviation sqrt(p (1 - p) / n) < 0.0036; 4 of them
    kind = kinds(uniform(7, torch.arange(20000), ()), 2.0, 1.0, 1.0)
    for which, share in ((NOISE, 0.5), (ZEROS, 0.25), (OTHER, 0.25)):
        assert (kind == which).double().mean().item() == pytest.approx(share, abs=0.0145)


@pytest.mark.parametrize(("shares", "only"), [((1, 0, 0), NOISE), ((0, 3, 0), ZEROS), ((0, 0, 0.5), OTHER)])
def test_a_single_kind(shares, only):
    assert (kinds(uniform(7, torch.arange(1000), ()), *shares) == only).all()


def test_each_item_gets_its_kind_in_hidden_valid_places_only():
    patches = torch.full((3, 4, 2), 5.0)
    elements = torch.ones(3, 4, 2, dtype=torch.bool)
    elements[:, 3] = False
    tokens = Tokens.of(patches, elements, torch.zeros(3, 4, 1), (4,))
    hidden = torch.tensor([[False, True, True, True]]).expand(3, -1)
    out = corrupted(tokens, hidden, torch.tensor([NOISE, ZEROS, OTHER]), torch.full_like(patches, 1), 2 * patches)
    assert out.patches[..., 0].tolist() == [[5, 1, 1, 0], [5, 0, 0, 0], [5, 10, 10, 0]]
    assert torch.equal(tokens.patches[:, :3], patches[:, :3])
