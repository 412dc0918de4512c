"""Weights in channels-last order: the same values, and moments that stay beside their weights."""

import torch
from torch import nn

from unlabeled.core.training.layout import channels_last, follow


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(32, 2))


def optimiser(model):
    return torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def step(model, adam):
    x = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
    model(x).square().sum().backward()
    adam.step()
    adam.zero_grad()


def test_values_stay_and_only_convolutions_change():
    plain, last = net(), net()
    channels_last(last)
    assert last[2].weight.stride() == (36, 1, 12, 4)  # 4 channels beside each other, 3 columns of 4, 3 rows of 12
    assert all(a.equal(b) for a, b in zip(plain.parameters(), last.parameters(), strict=True))
    assert plain[2].weight.stride() == (36, 9, 3, 1)


def test_moments_of_another_order_follow_their_weights():
    """Two steps with the second after a change of order equal two steps without; left as they were, they do not."""
    plain = net()
    adam = optimiser(plain)
    step(plain, adam), step(plain, adam)
    found = {}
    for followed in (True, False):
        first = net()
        before = optimiser(first)
        step(first, before)
        second = net()
        channels_last(second)
        second.load_state_dict(first.state_dict())
        after = optimiser(second)
        after.load_state_dict(before.state_dict())
        if followed:
            follow(after)
        step(second, after)
        found[followed] = (second[2].weight - plain[2].weight).abs().max().item()
    assert found[True] < 1e-6 and found[False] > 1e-5
