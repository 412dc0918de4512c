"""Features as targets: norms against torch's own, and the sign of collapse."""

import pytest
import torch
from torch.nn import functional as F

from unlabeled.core import ranks
from unlabeled.core.targets.features import contextual, layer_normed, target_std


def layers(n=3, rows=4, length=6, width=8):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(rows, length, width, dtype=torch.float64, generator=g) * 3 + 1 for _ in range(n)]


def test_layer_norm_has_mean_0_and_variance_1():
    # var / (var + 1e-5), with var of about 9
    x = layer_normed(layers(1)[0])
    torch.testing.assert_close(x.mean(-1), torch.zeros(4, 6, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(x.var(-1, correction=0), torch.ones(4, 6, dtype=torch.float64), rtol=0, atol=1e-4)


def test_contextual_targets_are_torchs_instance_norms():
    given = layers()
    normed = [F.instance_norm(x.transpose(1, 2)).transpose(1, 2) for x in given]
    expected = F.layer_norm(torch.stack(normed).mean(0), (8,))
    found = contextual(given, torch.ones(4, 6, dtype=torch.bool))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.var(-1, correction=0), torch.ones(4, 6).double(), rtol=0, atol=1e-3)


def test_invalid_tokens_do_not_enter_the_norm():
    given = layers()
    valid = torch.ones(4, 6, dtype=torch.bool)
    valid[:, 4:] = False
    spoiled = [torch.where(valid[..., None], x, torch.nan) for x in given]
    short = contextual([x[:, :4] for x in given], valid[:, :4])
    torch.testing.assert_close(contextual(spoiled, valid)[:, :4], short, rtol=0, atol=1e-12)
    assert contextual(given, torch.zeros_like(valid)).isfinite().all()


def test_target_std_by_hand():
    # identical targets: sqrt(0 + 1e-6); a channel of 0 and 2 (unbiased var 2) beside a constant one: their mean
    same = torch.full((2, 3, 5), 7.0, dtype=torch.float64)
    ones = torch.ones(2, 3)
    assert target_std(same, ones).item() == pytest.approx(1e-3, rel=1e-9)
    x = torch.tensor([[0.0, 1.0], [2.0, 1.0]], dtype=torch.float64)
    expected = (2.000001**0.5 + 1e-3) / 2
    assert target_std(x, torch.ones(2)).item() == pytest.approx(expected, rel=1e-12)
    # what does not count may hold anything
    more = torch.cat([x, torch.full((1, 2), torch.nan)])
    assert target_std(more, torch.tensor([1.0, 1, 0])).item() == pytest.approx(expected, rel=1e-12)
    assert target_std(x, torch.zeros(2)).item() == pytest.approx(1e-3)


def test_target_std_is_torchs():
    x = layers(1)[0]
    expected = x.flatten(0, 1).var(0).add(1e-6).sqrt().mean()
    torch.testing.assert_close(target_std(x, torch.ones(4, 6)), expected, rtol=1e-12, atol=0)


def on_rank():
    # unequal counts on the ranks
    weight = torch.ones(4, 6)
    weight[3] = weight[0, 2:] = 0
    mine = slice(2 * ranks.rank(), 2 * ranks.rank() + 4 // ranks.world())
    return target_std(layers(1)[0][mine], weight[mine])


def test_target_std_on_two_ranks(two_ranks):
    alone = on_rank()
    for found in two_ranks.run(f"{__file__}:on_rank"):
        torch.testing.assert_close(found, alone, rtol=1e-9, atol=0)
