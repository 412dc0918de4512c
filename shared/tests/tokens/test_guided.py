"""Guided masks: exact counts, the ends of the schedule, and the frequencies of a weighted draw."""

import pytest
import torch

from unlabeled.core.streams import Draw
from unlabeled.core.testing.sync import NoWaiting
from unlabeled.core.tokens.guided import attention_guided, loss_guided
from unlabeled.core.tokens.masks import kept, random_mask


def noise(rows, length):
    return Draw(0, 0, torch.arange(rows)).uniform("mask", length)


def hints(rows, length):
    return torch.randn(rows, length, generator=torch.Generator().manual_seed(0))


def ragged(length=24):
    """Row n has n valid tokens scattered over the row, n = 0 ... length."""
    return torch.stack(
        [torch.randperm(length, generator=torch.Generator().manual_seed(n)) < n for n in range(length + 1)]
    )


def hidden(mask, row):
    return set(mask.hide[row][mask.hide_valid[row]].tolist())


def made(kind, valid, ratio, rounding="keep"):
    u, h = noise(*valid.shape), hints(*valid.shape)
    h[~valid] = torch.nan  # what is invalid may hold anything
    if kind == "loss":
        return loss_guided(valid, ratio, u, h, 0.5, rounding)
    return attention_guided(valid, ratio, u, h.exp(), hide=kind == "hide", rounding=rounding)


@pytest.mark.parametrize("kind", ["loss", "keep", "hide"])
@pytest.mark.parametrize(("ratio", "rounding"), [(0.1, "keep"), (0.6, "mask"), (0.75, "keep"), (0.9, "mask")])
def test_exact_counts_of_valid_tokens(kind, ratio, rounding):
    valid = ragged()
    mask = made(kind, valid, ratio, rounding)
    for n in range(25):
        keep = mask.keep[n][mask.keep_valid[n]].tolist()
        assert len(keep) == kept(n, ratio, rounding)
        assert sorted([*keep, *hidden(mask, n)]) == valid[n].nonzero().flatten().tolist()


@pytest.mark.parametrize("kind", ["loss", "keep", "hide"])
def test_nothing_waits_for_the_device(kind):
    valid = ragged()
    u, h = noise(*valid.shape), hints(*valid.shape)
    with NoWaiting():
        if kind == "loss":
            loss_guided(valid, 0.75, u, h, 0.5)
        else:
            attention_guided(valid, 0.75, u, h.exp(), hide=kind == "hide")


def test_share_0_is_the_random_mask():
    valid = ragged()
    plain, guided = random_mask(valid, 0.75, noise(25, 24)), loss_guided(valid, 0.75, noise(25, 24), hints(25, 24), 0.0)
    assert torch.equal(plain.keep, guided.keep) and torch.equal(plain.hide, guided.hide)
    assert torch.equal(plain.keep_valid, guided.keep_valid) and torch.equal(plain.hide_valid, guided.hide_valid)


def test_share_1_hides_exactly_the_hardest():
    valid = ragged()
    mask, hint = loss_guided(valid, 0.75, noise(25, 24), hints(25, 24), 1.0), hints(25, 24)
    for n in range(2, 25):
        by_hint = sorted(valid[n].nonzero().flatten().tolist(), key=lambda i: -hint[n, i].item())
        assert hidden(mask, n) == set(by_hint[: n - kept(n, 0.75)])


def test_half_of_the_hidden_are_the_hardest_and_the_rest_is_random():
    # 16 tokens at .75 hide 12; int(12 / 2) = 6 are the hardest. Of the 10 others 6 are hidden, each in 6/10 of the rows:
    # 4000 rows give 2400, deviation sqrt(4000 * .6 * .4) = 31; 5 deviations
    rows = 4000
    hint = torch.arange(16.0).expand(rows, -1)
    mask = loss_guided(torch.ones(rows, 16, dtype=torch.bool), 0.75, noise(rows, 16), hint, 0.5)
    counts = torch.bincount(mask.hide.flatten(), minlength=16)
    assert (counts[10:] == rows).all()
    assert counts[:10].sum() == 6 * rows and (counts[:10] - 2400).abs().max() < 155


@pytest.mark.parametrize("hide", [False, True])
def test_the_first_drawn_is_drawn_by_weight(hide):
    # 5 tokens of weights 1 to 4 and 0, one of them kept (or one hidden): it is token i in weight / 10 of the rows.
    # Of 8000 rows 800 to 3200, deviation at most sqrt(8000 * .24) = 44; 5 deviations
    rows = 8000
    weight = torch.tensor([1.0, 2, 3, 4, 0]).expand(rows, -1)
    ratio = 0.2 if hide else 0.8
    mask = attention_guided(torch.ones(rows, 5, dtype=torch.bool), ratio, noise(rows, 5), weight, hide)
    first = mask.hide if hide else mask.keep
    assert first.shape == (rows, 1)
    counts = torch.bincount(first.flatten(), minlength=5)
    assert counts[4] == 0
    assert (counts[:4] - torch.tensor([800, 1600, 2400, 3200])).abs().max() < 220


def test_the_second_is_drawn_by_weight_among_the_rest():
    # without replacement, weights 1, 2, 1: P({0, 1}) = 1/4 * 2/3 + 2/4 * 1/2 = 5/12; of 12000 rows 5000, deviation 54
    rows = 12000
    weight = torch.tensor([1.0, 2, 1]).expand(rows, -1)
    mask = attention_guided(torch.ones(rows, 3, dtype=torch.bool), 0.3, noise(rows, 3), weight)
    both = (mask.keep.sort(1).values == torch.tensor([0, 1])).all(1).sum()
    assert abs(both.item() - 5000) < 270


def test_tokens_of_no_weight_come_last_and_before_the_invalid():
    valid = torch.tensor([[True, True, True, True, False, False]])
    weight = torch.tensor([[0.0, 5, -1, torch.nan, 9, 9]])
    mask = attention_guided(valid, 0.4, noise(1, 6), weight)
    # int(4 * .6) = 2 kept: token 1 first, then one of the three of no weight
    assert mask.keep[0, 0] == 1 and mask.keep[0, 1] in (0, 2, 3) and mask.keep_valid.tolist() == [[True, True, False]]
