"""Keyed draws: what they depend on, what they do not, and how they are distributed."""

import math

import torch

from unlabeled.core.streams import Draw, generator, key, normal, rng, uniform

ITEMS = torch.arange(4000)


def test_a_key_is_pinned() -> None:
    """Frozen: another value would silently change every run that is resumed under a new version."""
    assert key(0, "plan", 1) == key(0, "plan", 1)
    assert len({key(0, "a", 1), key(0, "a", "1"), key(1, "a", 1), key(0, "a1"), key(0, "a", 1, 1)}) == 5
    assert key(7, "pinned") == 203938878100560189


def test_a_row_depends_on_its_item_alone() -> None:
    u = uniform(key(0, "u"), ITEMS, (3, 5))
    order = torch.randperm(len(ITEMS), generator=generator(0, "order"))
    torch.testing.assert_close(uniform(key(0, "u"), ITEMS[order], (3, 5)), u[order], rtol=0, atol=0)
    torch.testing.assert_close(uniform(key(0, "u"), ITEMS[17:18], (3, 5))[0], u[17], rtol=0, atol=0)


def test_a_larger_grid_holds_the_smaller_one() -> None:
    """Padding a batch must not change an item's draws."""
    for draw in (uniform, normal):
        small, large = draw(key(0, "g"), ITEMS[:50], (2, 3, 5)), draw(key(0, "g"), ITEMS[:50], (4, 7, 6))
        assert torch.equal(small, large[:, :2, :3, :5])
    flat = uniform(key(0, "g"), ITEMS, (6, 7)).double().flatten(1)
    columns = torch.corrcoef(flat.T) - torch.eye(42)
    assert columns.abs().max() < 5 / math.sqrt(len(ITEMS))


def test_uniform_is_uniform() -> None:
    """Mean 1/2 and variance 1/12 within 5 standard errors; 20 bins within chi-square's 1e-6 tail (df 19: 70.0)."""
    u = uniform(key(0, "u"), ITEMS, (50,))
    n = u.numel()
    assert abs(u.mean() - 0.5) < 5 * math.sqrt(1 / 12 / n)
    assert abs(u.var() - 1 / 12) < 5 * math.sqrt((1 / 80 - 1 / 144) / n)
    assert u.min() >= 0 and u.max() < 1
    counts = torch.histc(u, 20, 0, 1)
    assert ((counts - n / 20) ** 2 / (n / 20)).sum() < 70.0


def test_rows_and_columns_are_uncorrelated() -> None:
    """The largest of 1,225 correlations of 4,000 points stays below 5 / sqrt(4000); neighbouring items too."""
    u = uniform(key(0, "u"), ITEMS, (50,)).double()
    columns = torch.corrcoef(u.T) - torch.eye(50)
    assert columns.abs().max() < 5 / math.sqrt(len(ITEMS))
    flat = uniform(key(0, "u"), ITEMS, (1,)).double()[:, 0] - 0.5
    assert abs((flat[1:] * flat[:-1]).mean() * 12) < 5 / math.sqrt(len(ITEMS))


def test_normal_has_the_moments_of_a_normal() -> None:
    """Mean 0, variance 1, fourth moment 3 within 5 standard errors (1, sqrt 2, sqrt 96 over sqrt n)."""
    z = normal(key(0, "n"), ITEMS, (50,)).double()
    n = z.numel()
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs((z**2).mean() - 1) < 5 * math.sqrt(2 / n)
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / n)
    assert torch.isfinite(z).all()


def test_scopes_and_epochs_give_other_draws() -> None:
    draws = [Draw(0, 0, ITEMS), Draw(0, 1, ITEMS), Draw(1, 0, ITEMS), Draw(0, 0, ITEMS).within("view1")]
    values = [d.uniform("a", 2) for d in draws] + [draws[0].uniform("b", 2)]
    for i, a in enumerate(values):
        for b in values[:i]:
            assert (a == b).float().mean() < 0.01


def test_host_generators_are_keyed() -> None:
    assert rng(0, "a", 1).integers(1 << 30) == rng(0, "a", 1).integers(1 << 30)
    assert rng(0, "a", 1).integers(1 << 30) != rng(0, "a", 2).integers(1 << 30)
