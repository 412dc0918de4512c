"""How mask tokens stand out in attention: closed forms."""

import math

import torch

from unlabeled.core.losses.singularity import attention_on, heterogeneity


def attention(*rows):
    """One item, one head."""
    return torch.tensor(rows, dtype=torch.float64)[None, None]


KEYS = torch.tensor([[True, True, True, True, False]])


def test_the_share_of_attention():
    # the queries 0 and 2 give 0.1 + 0.2 and 0.5 + 0.25 to the keys 1 and 3: mean (0.3 + 0.75) / 2
    a = attention([0.3, 0.1, 0.4, 0.2], [1, 0, 0, 0], [0.25, 0.5, 0, 0.25], [0, 1, 0, 0])
    queries, keys = torch.tensor([[True, False, True, False]]), torch.tensor([[False, True, False, True]])
    assert math.isclose(attention_on(a, queries, keys, torch.ones(1)).item(), 0.525, abs_tol=1e-15)
    # uniform attention over 5 gives M / L
    flat = torch.full((3, 2, 5, 5), 0.2)
    hidden = torch.tensor([False, False, True, True, True]).expand(3, -1)
    torch.testing.assert_close(attention_on(flat, ~hidden, hidden, torch.ones(3)), torch.tensor(0.6))


def test_a_row_of_weight_zero_gives_no_share():
    flat = torch.full((2, 1, 2, 2), 0.5)
    flat[1] = torch.nan
    hidden = torch.tensor([[False, True]] * 2)
    assert attention_on(flat, ~hidden, hidden, torch.tensor([1.0, 0])) == 0.5


def test_entropy_among_the_keys():
    # four keys: uniform ln 4 / ln 4; two of four ln 2 / ln 4; one 0; what goes to no key counts not at all
    a = attention([0.25] * 4 + [0], [0.5, 0.5, 0, 0, 0], [0, 0, 1, 0, 0], [0.1, 0.1, 0.1, 0.1, 0.6], [0.2] * 5)
    found = heterogeneity(a, KEYS)
    torch.testing.assert_close(found, torch.tensor([[1, 0.5, 0, 1, 1]], dtype=torch.float64), rtol=0, atol=1e-12)
    # 3/4 and 1/4: (3/4 ln 4/3 + 1/4 ln 4) / ln 4
    a = attention([0.75, 0.25, 0, 0, 0], *[[0.2] * 5] * 4)
    wanted = (0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(4)
    assert math.isclose(heterogeneity(a, KEYS)[0, 0].item(), wanted, abs_tol=1e-12)


def test_slopes_are_finite_where_attention_is_zero():
    scores = torch.tensor([0.0, -2000, -2000, 1, 3], dtype=torch.float32).expand(1, 1, 5, 5).clone().requires_grad_()
    heterogeneity(scores.softmax(-1), KEYS).sum().backward()
    assert scores.grad.isfinite().all() and (scores.grad != 0).any()
