"""ranks outside a process group; two ranks are tested with the losses."""

import torch

from unlabeled.core import ranks


def test_mean_is_a_weighted_mean_that_ignores_what_weighs_nothing() -> None:
    x = torch.tensor([1.0, 2.0, float("nan")], requires_grad=True)
    mean = ranks.mean(x, torch.tensor([1.0, 3.0, 0.0]))
    assert mean.item() == (1 + 6) / 4
    mean.backward()
    assert x.grad.tolist() == [0.25, 0.75, 0.0]


def test_mean_of_nothing_is_zero_and_halves_are_summed_in_fp32() -> None:
    assert ranks.mean(torch.ones(3), torch.zeros(3)).item() == 0
    many = torch.ones(5000, dtype=torch.float16)
    assert ranks.mean(many, torch.ones(())).dtype == torch.float32
    assert ranks.mean(many, torch.ones(())).item() == 1.0


def test_one_rank_is_the_identity() -> None:
    x = torch.randn(3)
    assert ranks.total(x) is x and ranks.gather(x) is x
    assert ranks.world() == 1 and ranks.rank() == 0
