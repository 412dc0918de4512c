import math

import pytest
import torch
from scipy.special import i0e

from unlabeled.core.measures import spread
from unlabeled.core.measures.spread import alignment, uniformity


def circle(n: int) -> torch.Tensor:
    angle = torch.arange(n, dtype=torch.float64) * (2 * math.pi / n)
    return torch.stack([angle.cos(), angle.sin()], 1)


def test_alignment_of_equal_orthogonal_and_opposite_views() -> None:
    # lengths 0, sqrt 2 and 2, whatever the length of the rows
    z = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert float(alignment(z, 7 * z)) == pytest.approx(0, abs=1e-12)
    for alpha in (1.0, 2.0, 3.0):
        assert float(alignment(z, -z, alpha)) == pytest.approx(2**alpha)
    one, other = torch.eye(2, dtype=torch.float64)
    assert float(alignment(one[None], other[None])) == pytest.approx(2)
    # a mean over items: one equal, one opposite
    assert float(alignment(z[:2], torch.stack([z[0], -z[1]]))) == pytest.approx(2)


@pytest.mark.parametrize("t", [0.5, 2.0])
def test_uniformity_of_one_point_of_a_pair_and_of_orthogonal_rows(t: float) -> None:
    # squared distances 0, 4 and 2 in every pair
    z = torch.tensor([[1.0, 2.0, 2.0]], dtype=torch.float64)
    assert float(uniformity(z.repeat(7, 1), t)) == pytest.approx(0, abs=1e-12)
    assert float(uniformity(torch.cat([z, -3 * z]), t)) == pytest.approx(-4 * t)
    assert float(uniformity(torch.eye(6, dtype=torch.float64), t)) == pytest.approx(-2 * t)


@pytest.mark.parametrize("t", [1.0, 2.0])
def test_uniformity_of_the_circle(t: float) -> None:
    # |x - y|^2 = 2 - 2 cos a, so E exp(-t |x - y|^2) = exp(-2t) I_0(2t) = i0e(2t). Over n points evenly apart the mean over all
    # pairs, an item with itself (which gives 1) included, is the rectangle rule of that integral, exact for a period.
    n, mean = 64, float(i0e(2 * t))
    assert float(uniformity(circle(n), t)) == pytest.approx(math.log((n * mean - 1) / (n - 1)), abs=1e-12)
    # and of 4000 by lot: exp(-t |x - y|^2) deviates by less than 0.5, pairs share points, so the error is below
    # 2 * 0.5 / sqrt(4000) = 0.016 of a mean above 0.2, one deviation; four of them are 0.3
    angle = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2 * math.pi
    found = float(uniformity(torch.stack([angle.cos(), angle.sin()], 1), t))
    assert found == pytest.approx(math.log(mean), abs=0.05)


def test_pairs_are_counted_once_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    z = torch.randn(23, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    unit = z / z.norm(dim=1, keepdim=True)
    by_hand = torch.pdist(unit).pow(2).mul(-2).exp().mean().log()
    whole = uniformity(z)
    monkeypatch.setattr(spread, "ROWS", 5)
    torch.testing.assert_close(whole, by_hand)
    torch.testing.assert_close(uniformity(z), by_hand)


def test_half_precision_is_widened_and_one_row_is_not_defined() -> None:
    assert uniformity(torch.eye(4, dtype=torch.bfloat16)).dtype == torch.float32
    assert alignment(torch.eye(4).half(), torch.eye(4).half()).dtype == torch.float32
    assert math.isnan(float(uniformity(torch.ones(1, 3))))
