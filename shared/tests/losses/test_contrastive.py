"""NT-Xent."""

import math

import pytest
import torch

from unlabeled.core.losses.contrastive import nt_xent


def views(b=8, d=5):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(b, d, generator=g, dtype=torch.float64) for _ in range(2)]


def test_orthonormal_and_aligned():
    # every anchor has one cosine of 1 (its positive) and 14 of 0: log(e^2 + 14) - 2
    z = torch.eye(8, dtype=torch.float64)
    loss = nt_xent(z, 3 * z, 0.5).item()
    assert math.isclose(loss, math.log(math.exp(2) + 14) - 2, abs_tol=1e-12)
    assert math.isclose(loss, 1.0628794, abs_tol=1e-7)


def test_collapsed():
    # all 15 others alike: log 15
    z = torch.ones(8, 3, dtype=torch.float64)
    assert math.isclose(nt_xent(z, z, 0.5).item(), math.log(15), abs_tol=1e-12)
    assert math.isclose(nt_xent(z, z, 0.07).item(), 2.7080502, abs_tol=1e-7)


def test_by_its_definition():
    z1, z2 = views(4)
    z = torch.nn.functional.normalize(torch.cat([z1, z2]), dim=1)
    s = (z @ z.T / 0.3).exp()
    terms = [-torch.log(s[i, (i + 4) % 8] / (s[i].sum() - s[i, i])) for i in range(8)]
    torch.testing.assert_close(nt_xent(z1, z2, 0.3), torch.stack(terms).mean(), rtol=0, atol=1e-12)


def test_order_and_sides_do_not_matter():
    z1, z2 = views()
    loss = nt_xent(z1, z2, 0.2)
    order = torch.randperm(8)
    torch.testing.assert_close(nt_xent(z1[order], z2[order], 0.2), loss, rtol=0, atol=1e-12)
    torch.testing.assert_close(nt_xent(z2, z1, 0.2), loss, rtol=0, atol=1e-12)
    assert (nt_xent(z1, z2[order], 0.2) - loss).abs() > 1e-3


def test_a_low_temperature_lets_nothing_leak():
    # orthonormal at 1/t = 200: log(e^200 + 14) - 200 = 14 e^-200; a leaking anchor would give log 2
    z = torch.eye(8, dtype=torch.float64)
    assert nt_xent(z, z, 1 / 200).item() < 1e-12


def test_rows_of_weight_zero_are_not_there():
    z1, z2 = views()
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    z1.requires_grad_()
    loss = nt_xent(z1, z2, 0.2, weight)
    there = weight > 0
    torch.testing.assert_close(loss, nt_xent(z1[there], z2[there], 0.2), rtol=0, atol=1e-12)
    loss.backward()
    assert (z1.grad[~there] == 0).all()
    assert nt_xent(z1, z2, 0.2, torch.zeros(8)) == 0


def test_items_of_one_record_do_not_repel():
    # 8 orthonormal items in 4 records of 2: both views of the other item leave, 12 negatives remain
    z = torch.eye(8, dtype=torch.float64)
    record = torch.arange(8) // 2
    assert math.isclose(nt_xent(z, z, 0.5, record=record).item(), math.log(math.exp(2) + 12) - 2, abs_tol=1e-12)
    # every item its own record changes nothing; one record for all leaves the positive alone: log 1
    z1, z2 = views()
    assert nt_xent(z1, z2, 0.2, record=torch.arange(8)) == nt_xent(z1, z2, 0.2)
    assert nt_xent(z1, z2, 0.2, record=torch.zeros(8, dtype=torch.int64)).abs() < 1e-12


def test_gradient():
    z1, z2 = (z.requires_grad_() for z in views(4, 3))
    weight, record = torch.tensor([1.0, 1, 1, 0]), torch.tensor([0, 0, 1, 2])
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5, weight.double(), record), (z1, z2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_under_autocast_it_stays_in_single(dtype):
    # log 15 = 2.70805; bfloat16, which has 8 bits, would give 2.703 or 2.719
    z = torch.ones(8, 3, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nt_xent(z, z, 0.5)
    assert loss.dtype == torch.float32
    assert math.isclose(loss.item(), 2.7080502, abs_tol=1e-5)
