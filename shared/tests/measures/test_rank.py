import pytest
import torch

from unlabeled.core.measures.rank import rankme


def test_isotropic_is_full_and_a_line_is_one() -> None:
    # equal singular values: p = 1/16, entropy log 16; one singular value: p = (1, 0, ...), entropy 0 but for eps
    assert float(rankme(torch.eye(16, dtype=torch.float64))) == pytest.approx(16.0, abs=1e-3)
    line = torch.outer(torch.arange(1.0, 9.0, dtype=torch.float64), torch.ones(16, dtype=torch.float64))
    assert float(rankme(line)) == pytest.approx(1.0, abs=1e-4)


def test_two_unequal_directions() -> None:
    # sigma = (3, 1): p = (3/4, 1/4), exp(H) = exp(-(3/4) log(3/4) - (1/4) log(1/4)) = 4 / 3^(3/4)
    assert float(rankme(torch.diag(torch.tensor([3.0, 1.0], dtype=torch.float64)))) == pytest.approx(
        4 / 3**0.75, abs=1e-5
    )
