"""Groups of items and the places each of them gives."""

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.tokens.mix import Groups, mixed


def test_every_item_is_in_one_group():
    weight = torch.tensor([1.0, 1, 0, 1, 1, 1, 1])
    groups = Groups.of(torch.arange(7) + 20, weight, 3, stream=4)
    # 7 rows make 3 groups of 3, of which 6 places are taken, all in the first two groups
    assert groups.member.shape == (9,) and groups.number.tolist() == [0, 1, 2]
    assert groups.there.tolist() == [True] * 6 + [False] * 3
    assert sorted(groups.member[:6].tolist()) == [0, 1, 3, 4, 5, 6]
    assert groups.member[groups.place[weight > 0]].tolist() == [0, 1, 3, 4, 5, 6]


def test_groups_change_with_the_stream():
    found = {tuple(sorted(Groups.of(torch.arange(4), torch.ones(4), 2, s).member[:2].tolist())) for s in range(60)}
    assert len(found) == 6  # all pairs of 4


@pytest.mark.parametrize(("n", "length"), [(2, 9), (3, 9), (4, 16), (4, 3)])
def test_each_place_once_and_exact_shares(n, length):
    noise = torch.rand(5, length, generator=torch.Generator().manual_seed(0))
    mask = mixed(torch.ones(5, n, length, dtype=torch.bool), noise)
    most = -(-length // n)
    assert mask.keep.shape == (5 * n, most) and mask.hide.shape == (5 * n, (n - 1) * most)
    keep, there = mask.keep.unflatten(0, (5, n)), mask.keep_valid.unflatten(0, (5, n))
    for g in range(5):
        assert sorted(keep[g][there[g]].tolist()) == list(range(length))
        counts = there[g].sum(1)
        assert counts.max() - counts.min() <= 1
    # and what an item does not give is all that is left
    for row in range(5 * n):
        own, rest = mask.keep[row][mask.keep_valid[row]], mask.hide[row][mask.hide_valid[row]]
        assert sorted([*own.tolist(), *rest.tolist()]) == list(range(length))


def test_places_without_a_valid_item_are_not_dealt_out():
    valid = torch.zeros(1, 2, 8, dtype=torch.bool)
    valid[0, 0, :3] = valid[0, 1, 2:6] = True  # places 0 to 5 are valid in one of both
    noise = torch.rand(1, 8, generator=torch.Generator().manual_seed(0))
    mask = mixed(valid, noise)
    assert sorted(mask.keep[mask.keep_valid].tolist()) == [0, 1, 2, 3, 4, 5]
    assert mask.keep_valid.sum(1).tolist() == [3, 3]
    # a longer grid deals the same places to the same items
    wide = mixed(torch.nn.functional.pad(valid, (0, 3)), torch.nn.functional.pad(noise, (0, 3), value=0.01))
    assert torch.equal(wide.keep[wide.keep_valid], mask.keep[mask.keep_valid])


def on_rank():
    n = 6 // ranks.world()
    own = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    weight = torch.tensor([1.0, 1, 1, 0, 1, 1])
    groups = Groups.of(torch.arange(6)[own], weight[own], 2, stream=9)
    everyone = [ranks.gather(x) for x in (groups.member, groups.there.int(), groups.number)]
    there = everyone[1] > 0
    place = ranks.gather(groups.place)
    return [everyone[0][there], everyone[2][: there.sum() // 2], everyone[0][place][weight > 0]]


def test_two_ranks_make_the_same_groups(two_ranks):
    alone = on_rank()
    assert alone[2].tolist() == [0, 1, 2, 4, 5]
    for result in two_ranks.run(f"{__file__}:on_rank"):
        assert all(torch.equal(a, b) for a, b in zip(result, alone, strict=True))
