"""The nearest entry of a codebook: as torch's distances say, ties, precision, and drawing rows over ranks."""

import math

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.streams import uniform
from unlabeled.core.targets.codebooks import nearest as module
from unlabeled.core.targets.codebooks.drawing import drawn, seeds
from unlabeled.core.targets.codebooks.nearest import most_alike, nearest
from unlabeled.core.targets.codebooks.use import counted, in_use, perplexity
from unlabeled.core.testing.sync import NoWaiting


def some(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("chunk", [1, 37 * 5, 1 << 20])
def test_as_torch_says(monkeypatch, chunk):
    # rows that are no multiple of a chunk too: 1, 5 and all at a time
    monkeypatch.setitem(module.CHUNK, "cpu", chunk)
    x, entries = some(4, 33, 6), some(37, 6, seed=1)
    expected = torch.cdist(x.flatten(0, 1), entries).argmin(1).reshape(4, 33)
    with NoWaiting():
        ids = nearest(x, entries)
    assert torch.equal(ids, expected) and ids.dtype == torch.int64
    assert torch.equal(most_alike(x, entries), (x @ entries.T).argmax(-1))


def test_of_equals_the_lowest():
    # whole numbers, so that no rounding decides: 0 is as far from 1 as from -1, and each of them is there three times
    entries = torch.tensor([[5.0], [1.0], [-1.0]]).repeat(3, 1)
    assert nearest(torch.zeros(50, 1), entries).tolist() == [1] * 50
    assert nearest(torch.full((2, 1), -3.0), entries).tolist() == [2, 2]
    assert most_alike(torch.zeros(2, 1), entries).tolist() == [0, 0]


def test_half_precision_is_compared_in_single():
    # 256 and 256.5 are one number in bfloat16; under autocast too the product is of singles
    entries = torch.tensor([[256.0, 0.0], [256.5, 0.0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert nearest(torch.tensor([[256.4, 0.0], [256.1, 0.0]]), entries).tolist() == [1, 0]
    assert nearest(torch.tensor([[3.0, 0.0]], dtype=torch.bfloat16), entries).tolist() == [0]


def test_no_gradient():
    x = some(3, 2).requires_grad_()
    assert not nearest(x, x).requires_grad


def test_perplexity_and_use():
    assert perplexity(torch.ones(7)).item() == pytest.approx(7)
    assert perplexity(torch.tensor([0.0, 3.0, 0.0])).item() == perplexity(torch.zeros(3)).item() == 1
    # shares 1/2, 1/4, 1/4: exp(1.5 ln 2) = 2^1.5, of each row by itself
    counts = torch.tensor([[2.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(perplexity(counts), torch.tensor([2**1.5, 4.0], dtype=torch.float64))
    assert in_use(counts).tolist() == [0.75, 1.0]


ROWS = 24


def task(first):
    """Draws from this rank's rows, of which the first one has `first`: ranks need not hold equally many, or any."""
    x, mass, ids = some(ROWS, 3), some(ROWS, seed=4).clamp_min(0), torch.arange(ROWS) % 5
    cut = [0, first, ROWS] if ranks.world() == 2 else [0, ROWS]
    mine = slice(cut[ranks.rank()], cut[ranks.rank() + 1])
    x, mass, ids = x[mine], mass[mine], ids[mine]
    rows, any_mass = drawn(x, mass, uniform(7, torch.arange(500), ()))
    seeded, there = seeds(x, mass, 6, stream=3)
    return {"drawn": rows, "any": any_mass, "seeds": seeded, "there": there, "counts": counted(ids, mass, 5)}


@pytest.mark.parametrize("first", [0, 8, 23, 24])
def test_two_ranks_draw_the_same_rows(two_ranks, first):
    alone = task(first)
    assert alone["there"].all() and len(alone["seeds"].unique(dim=0)) == 6
    for result in two_ranks.run(f"{__file__}:task", first):
        assert torch.equal(result["drawn"], alone["drawn"]) and torch.equal(result["seeds"], alone["seeds"])
        torch.testing.assert_close(result, alone)


def test_rows_are_drawn_by_their_mass():
    # masses 1, 0, 3: of n draws 1/4 and 3/4, within 5 standard deviations, sqrt(3/16 / n)
    n = 20_000
    x = torch.tensor([[0.0], [torch.inf], [1.0]])
    rows, any_mass = drawn(x, torch.tensor([1.0, 0.0, 3.0]), uniform(1, torch.arange(n), ()))
    assert any_mass and abs(rows.mean().item() - 0.75) < 5 * math.sqrt(3 / 16 / n)
    rows, any_mass = drawn(torch.ones(3, 1), torch.zeros(3), uniform(1, torch.arange(4), ()))
    assert not any_mass and (rows == 0).all()


def test_seeds_are_all_different_while_there_are_any():
    x = torch.tensor([[1.0], [1.0], [4.0], [9.0]])
    rows, there = seeds(x, torch.ones(4), 5, stream=0)
    assert sorted(rows[:3, 0].tolist()) == [1, 4, 9]
    assert there.tolist() == [True, True, True, False, False]
