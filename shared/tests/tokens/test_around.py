"""Regions around tokens that are attended to."""

import torch

from unlabeled.core.streams import uniform
from unlabeled.core.tokens.around import around, picked


def test_tokens_are_picked_by_their_attention():
    # one of three tokens, chances 0.7, 0.2 and 0.1 of 20,000 items: deviations of at most sqrt(.25 / 20000) = 0.0035
    attention, valid = torch.tensor([0.7, 0.2, 0.1]).expand(20000, 3), torch.ones(20000, 3, dtype=torch.bool)
    lots = uniform(1, torch.arange(20000), (3,))
    at, there = picked(attention, valid, lots, 1)
    assert there.all()
    assert (at[:, 0].bincount() / 20000 - attention[0]).abs().max() < 4 * 0.0035
    # two different ones: the pair {1, 2} is .2 * .1 / .8 + .1 * .2 / .9 = 0.0472 of all
    at, _ = picked(attention, valid, lots, 2)
    assert (at[:, 0] != at[:, 1]).all()
    assert abs((at > 0).all(1).double().mean() - 0.0472) < 4 * 0.0015


def test_only_valid_tokens_are_picked_and_padding_changes_nothing():
    attention = torch.rand(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    valid = torch.arange(6) < torch.tensor([6, 3, 2, 1, 0])[:, None]
    lots = uniform(2, torch.arange(5), (6,))
    at, there = picked(attention, valid, lots, 3)
    assert there.sum(1).tolist() == [3, 3, 2, 1, 0]
    assert valid.gather(1, at)[there].all()
    wider = torch.nn.functional.pad(attention, (0, 4), value=9.0), torch.nn.functional.pad(valid, (0, 4))
    again, also = picked(*wider, uniform(2, torch.arange(5), (10,)), 3)
    assert torch.equal(there, also) and torch.equal(at[there], again[there])
    # an item of fewer tokens than regions
    assert picked(attention[:, :2], valid[:, :2], lots[:, :2], 3)[0].shape == (5, 2)
    # a lot of 0 and an attention of 0 are numbers like others
    at, there = picked(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), torch.zeros(1, 2), 2)
    assert there.all() and sorted(at[0].tolist()) == [0, 1]


def test_a_square_around_a_token():
    grid = torch.stack(torch.meshgrid(torch.arange(4.0), torch.arange(5.0), indexing="ij"), -1).reshape(1, 20, 2)
    found = around([grid], torch.tensor([[0, 7]]), 1)
    assert found.shape == (1, 20, 2)
    # the corner has 4 neighbours, itself among them; (1, 2) has 9
    assert found[0, :, 0].nonzero()[:, 0].tolist() == [0, 1, 5, 6]
    assert found[0, :, 1].nonzero()[:, 0].tolist() == [1, 2, 3, 6, 7, 8, 11, 12, 13]
    assert around([grid], torch.tensor([[7]]), 0)[0, :, 0].nonzero()[:, 0].tolist() == [7]


def test_inputs_do_not_mix():
    # a line of 3 and a grid of 2 x 2: token 4 is the grid's second
    line, grid = torch.arange(3.0).view(1, 3, 1), torch.tensor([[[0.0, 0], [0, 1], [1, 0], [1, 1]]])
    found = around([line, grid], torch.tensor([[1, 4]]), 1)
    assert found[0, :, 0].nonzero()[:, 0].tolist() == [0, 1, 2]
    assert found[0, :, 1].nonzero()[:, 0].tolist() == [3, 4, 5, 6]
