"""Sinkhorn's assignments."""

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.losses.sinkhorn import sinkhorn
from unlabeled.core.testing.ranks import assert_same


def scores(b=8, k=5):
    """Cosines of b items with k prototypes."""
    g = torch.Generator().manual_seed(0)
    z, c = (torch.nn.functional.normalize(torch.randn(n, 6, generator=g, dtype=torch.float64), dim=1) for n in (b, k))
    return z @ c.T


def test_equal_scores_are_shared_alike():
    assert (sinkhorn(torch.full((6, 4), 0.7), 0.05) - 0.25).abs().max() < 1e-7


def test_a_row_sums_to_one_and_a_column_to_its_share():
    found = sinkhorn(scores(), 0.05, iterations=1000)
    assert (found.sum(1) - 1).abs().max() < 1e-12
    assert (found.sum(0) - 8 / 5).abs().max() < 1e-9
    # a row sums to 1 after one iteration too, a column does not yet
    found = sinkhorn(scores(), 0.05, iterations=1)
    assert (found.sum(1) - 1).abs().max() < 1e-12
    assert (found.sum(0) - 8 / 5).abs().max() > 0.1


def test_by_hand():
    # exp(scores) = [[2, 1], [1, 1]]: columns by their sums 3 and 2 is [[2/3, 1/2], [1/3, 1/2]], and rows by theirs,
    # 7/6 and 5/6, is [[4/7, 3/7], [2/5, 3/5]]
    found = sinkhorn(torch.tensor([[2.0, 1], [1, 1]]).double().log(), 1.0, iterations=1)
    expected = torch.tensor([[4 / 7, 3 / 7], [2 / 5, 3 / 5]], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_all_items_alike_are_still_spread():
    # every item likes prototype 0 by far: by its scores alone it would get all of them
    found = sinkhorn(torch.tensor([[1.0, 0, 0]]).expand(6, 3), 0.05)
    assert (found - 1 / 3).abs().max() < 1e-6


@pytest.mark.parametrize("iterations", [1, 3, 10])
def test_lightly_agrees(lightly, iterations, two_ranks):
    theirs = lightly.swav_loss.sinkhorn(scores(), iterations, 0.05)
    torch.testing.assert_close(sinkhorn(scores(), 0.05, iterations), theirs, rtol=0, atol=1e-12)
    single = lightly.swav_loss.sinkhorn(scores().float(), iterations, 0.05)
    torch.testing.assert_close(sinkhorn(scores().float(), 0.05, iterations), single, rtol=0, atol=2e-7)
    for answer in two_ranks.run(f"{__file__}:on_rank", iterations, None):
        torch.testing.assert_close(answer["assigned"], theirs, rtol=0, atol=1e-9)


def test_a_low_temperature_overflows_nowhere():
    # exp(1 / 1e-4) is inf in fp32, and a row whose best is .5 below another's underflows beside it
    low = torch.tensor([[1.0, 0.1], [0.2, 0.5], [0.4, 0.1], [0.1, 0.3]])
    found = sinkhorn(low, 1e-4)
    assert (found.sum(1) - 1).abs().max() < 1e-6
    assert torch.equal(found.argmax(1), torch.tensor([0, 1, 0, 1]))
    # a prototype that nobody likes takes nothing and spoils nothing
    found = sinkhorn(torch.tensor([[1.0, 0.9, -1], [0.9, 1.0, -1]]), 1e-4)
    torch.testing.assert_close(found, torch.tensor([[1.0, 0, 0], [0, 1, 0]]), rtol=0, atol=1e-6)


def test_rows_of_weight_zero_take_nothing():
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    there = weight > 0
    full = scores()
    alone = sinkhorn(full[there], 0.05)
    full[~there] = torch.nan
    found = sinkhorn(full, 0.05, weight=weight)
    torch.testing.assert_close(found[there], alone, rtol=0, atol=1e-12)
    assert (found[~there] == 0).all()
    assert (sinkhorn(full, 0.05, weight=torch.zeros(8)) == 0).all()


def test_it_has_no_gradient_and_leaves_the_scores():
    given = scores().requires_grad_()
    assert not sinkhorn(given, 0.05).requires_grad
    assert torch.equal(given, scores())


def test_under_autocast_it_stays_in_single():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = sinkhorn(scores().float(), 0.05)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), sinkhorn(scores(), 0.05), rtol=0, atol=1e-6)
    assert sinkhorn(scores().bfloat16(), 0.05).dtype == torch.float32


def on_rank(iterations, weight):
    n = 8 // ranks.world()
    mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    found = sinkhorn(scores()[mine], 0.05, iterations, None if weight is None else weight[mine])
    return {"assigned": ranks.gather(found)}


def test_two_ranks_equal_one(two_ranks):
    # one row counts on the second rank; then none
    for weight in (None, torch.tensor([1.0, 1, 1, 1, 0, 1, 0, 0]), torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])):
        assert_same(two_ranks.run(f"{__file__}:on_rank", 3, weight), on_rank(3, weight), tolerance=1e-9)
