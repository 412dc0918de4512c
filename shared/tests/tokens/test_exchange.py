"""Items that meet, on one rank and on two."""

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.streams import uniform
from unlabeled.core.tokens.exchange import donors, everybody, on_grid, rows, shuffled
from unlabeled.core.tokens.tokens import Tokens


def tokens_of(b=2, grid=(2, 3), p=2):
    n = grid[0] * grid[1]
    patches = torch.arange(1.0, b * n * p + 1).reshape(b, n, p)
    elements = torch.ones(b, n, p, dtype=torch.bool)
    elements[0, 1, 0] = False
    coords = torch.arange(float(n * 2)).reshape(1, n, 2).expand(b, -1, -1)
    return Tokens.of(patches, elements, coords, grid)


@pytest.mark.parametrize("n", [2, 3, 7])
def test_everyone_gives_once_and_never_to_itself(n):
    for stream in range(50):
        donor, there = donors(torch.arange(n) + 100, torch.ones(n), stream)
        assert there.all() and sorted(donor.tolist()) == list(range(n))
        assert (donor != torch.arange(n)).all()


def test_rows_of_weight_zero_neither_give_nor_take():
    weight = torch.tensor([1.0, 0, 1, 1, 0])
    for stream in range(50):
        donor, there = donors(torch.arange(5), weight, stream)
        assert there.tolist() == [True, False, True, True, False]
        assert sorted(donor[there].tolist()) == [0, 2, 3] and (donor[there] != torch.tensor([0, 2, 3])).all()
        # and they change nothing for the others
        few, _ = donors(torch.tensor([0, 2, 3]), torch.ones(3), stream)
        assert torch.equal(torch.tensor([0, 2, 3])[few], donor[there])
    assert not donors(torch.arange(3), torch.tensor([0.0, 1, 0]), 1)[1].any()


def test_every_ring_is_as_likely():
    # 4 items have 3! = 6 rings; of 3000 each gets 500 with a standard deviation of sqrt(3000 * 5 / 36) = 20.4
    found = [tuple(donors(torch.arange(4), torch.ones(4), stream)[0].tolist()) for stream in range(3000)]
    counts = [found.count(ring) for ring in set(found)]
    assert len(counts) == 6 and all(abs(c - 500) < 4 * 20.4 for c in counts)


def test_the_order_is_of_the_items_and_not_of_the_rows():
    ids = torch.tensor([4, 9, 2, 7])
    order, count = shuffled(ids, torch.ones(4), 5)
    other, _ = shuffled(ids.flip(0), torch.ones(4), 5)
    assert count == 4 and torch.equal(ids[order], ids.flip(0)[other])


def test_another_grid_cuts_and_pads():
    t = tokens_of()
    wide = on_grid(t, (3, 4))
    assert wide.patches.shape == (2, 12, 2) and wide.valid.sum() == t.valid.sum()
    places = [0, 1, 2, 4, 5, 6]  # rows of 4 instead of 3
    assert torch.equal(wide.patches[:, places], t.patches) and torch.equal(wide.coords[:, places], t.coords)
    back = on_grid(wide, (2, 3))
    for name in ("patches", "elements", "coords", "valid"):
        assert torch.equal(getattr(back, name), getattr(t, name))
    assert torch.equal(on_grid(t, (1, 2)).patches, t.patches[:, :2])


def test_rows_are_picked_or_empty():
    t = tokens_of()
    picked = rows(t, torch.tensor([1, 1, 0]), torch.tensor([True, False, True]))
    assert torch.equal(picked.patches[0], t.patches[1]) and torch.equal(picked.patches[2], t.patches[0])
    assert not picked.valid[1].any() and (picked.patches[1] == 0).all() and picked.grid == (2, 3)


def test_tokens_without_a_grid_are_refused():
    t = tokens_of()
    with pytest.raises(ValueError, match="without a grid"):
        everybody(Tokens.of(t.patches, t.elements, t.coords))


def on_rank():
    """A second rank's items are on a larger grid, as its own padding left them."""
    whole = on_grid(tokens_of(4), (2, 4))
    half = 4 // ranks.world()
    own = slice(ranks.rank() * half, (ranks.rank() + 1) * half)
    mine = whole._each(lambda x: x[own])
    mine = on_grid(mine, (2, 3)) if ranks.world() == 2 and ranks.rank() == 0 else mine
    ids, weight = torch.arange(4)[own] + 10, torch.tensor([1.0, 1, 0, 1])[own]
    met = everybody(mine)
    donor, there = donors(ids, weight, 3)
    assert met.grid == (2, 4)
    return [met.patches, met.elements, met.coords, met.valid, ranks.gather(donor), ranks.gather(there.int())]


def test_two_ranks_meet_as_one(two_ranks):
    alone = on_rank()
    assert uniform(3, torch.arange(4), ()).shape == (4,)
    for result in two_ranks.run(f"{__file__}:on_rank"):
        assert all(torch.equal(a, b) for a, b in zip(result, alone, strict=True))
