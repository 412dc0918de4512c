"""Mixtures: parts named by patterns of keys, in stated shares."""

import logging

import numpy as np
import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.data.plans.mixture import Mixture

KEYS = [f"siteA/{i}" for i in range(20)] + [f"siteB/{i}" for i in range(70)] + [f"rare/{i}" for i in range(10)]


def plan(shares, batch=10, keys=KEYS):
    return Mixture(keys, batch, Mixture.Options(shares=shares))


def test_every_batch_holds_the_stated_shares():
    found = plan({"siteA/*": 0.7, "*": 0.3})
    for epoch in range(5):
        batches = found(0, epoch)
        assert len(batches) == found.steps(epoch) == 10  # 100 items, as before
        for batch in batches:
            assert (batch < 20).sum() == 7 and len(set(batch.tolist())) == 10
        times = np.bincount(np.concatenate(batches), minlength=100)
        # 70 draws of 20 items: 3 or 4 times each; 30 of the 80 others, each once
        assert set(times[:20].tolist()) == {3, 4} and times[:20].sum() == 70
        assert set(times[20:].tolist()) == {0, 1}
    again = plan({"siteA/*": 0.7, "*": 0.3})(0, 4)
    assert all((a == b).all() for a, b in zip(batches, again, strict=True))
    assert not np.array_equal(found(0, 0), found(0, 1))


def test_shares_are_of_their_sum_and_the_first_pattern_counts():
    def counts(shares):
        ids = np.concatenate(plan(shares)(0, 0))
        return [int((ids < 20).sum()), int(((ids >= 20) & (ids < 90)).sum()), int((ids >= 90).sum())]

    assert counts({"siteA/*": 2, "siteB/*": 2, "*": 1}) == [40, 40, 20]
    # the site is among what the first pattern fits; what is left of the second is the site B and the rare ones
    assert counts({"site[A]/*": 1, "*": 1})[0] == 50
    # a third of 100 each: 34, 33 and 33
    assert sorted(counts({"siteA/*": 1, "siteB/*": 1, "rare/*": 1})) == [33, 33, 34]


def test_what_fits_no_pattern_is_never_drawn(caplog):
    with caplog.at_level(logging.WARNING):
        found = plan({"siteA/*": 1, "rare/*": 1})
    assert "70 of 100 items fit no pattern and are never drawn" in caplog.text
    ids = np.concatenate(found(0, 0))
    assert found.steps(0) == 3 and not ((ids >= 20) & (ids < 90)).any() and (ids < 20).sum() == 15


def test_parts_that_failed_are_made_up_for_by_the_others():
    found = plan({"rare/*": 0.5, "*": 0.5})
    # 6 of the 10 rare ones failed: 94 items make 9 batches of 10, and the 4 that are left cannot give 5 to each
    batches = found(0, 3, set(range(90, 96)))
    assert len(batches) == found.steps(3, set(range(90, 96))) == 9
    assert all((b >= 96).sum() == 4 and len(set(b.tolist())) == 10 for b in batches)
    assert all((b < 90).all() for b in found(0, 3, set(range(90, 100))))


def test_one_part_is_uniform():
    ids = np.concatenate(plan({"*": 1})(0, 0))
    assert sorted(ids.tolist()) == list(range(100))


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ({"siteC/*": 1, "*": 1}, "'siteC/.' fits no key that is left, of keys as 'rare/0', 'rare/1'; change it"),
        ({"*": 1, "siteA/*": 1}, "'siteA/.' fits no key that is left"),
        ({"siteA/*": 0, "*": 1}, "'siteA/.' has no share above 0"),
        ({"rare/*": 9, "*": 1}, None),
        ({"rare/*": 1}, None),
    ],
)
def test_wrong_shares_are_said(shares, said):
    if said is None:
        assert plan(shares).steps(0) >= 1  # 9 of 10 is within the 10 there are
        with pytest.raises(
            RequestError, match=r"'rare/.' has 10 items for .* of every batch; lower its share or batch_size"
        ):
            plan(shares, batch=20)
    else:
        with pytest.raises(RequestError, match=said):
            plan(shares)
