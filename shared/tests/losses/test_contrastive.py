"""NT-Xent and DCL."""

import math

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.losses.contrastive import dcl, info_nce, nt_xent, queue_nce
from unlabeled.core.testing.ranks import assert_same


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


def test_dcl_orthonormal_and_aligned():
    # no positive in the sum: log 14 - 1 / t
    z = torch.eye(8, dtype=torch.float64)
    assert math.isclose(dcl(z, 3 * z, 0.1).item(), -7.3609427, abs_tol=1e-7)
    assert math.isclose(dcl(z, 3 * z, 0.01).item(), -97.3609427, abs_tol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dcl_at_a_low_temperature_lets_nothing_leak(dtype):
    # log 14 - 150 = -147.4; the official code adds log(1e-45) = -103.3 to the anchor's own 150, which would stay as the
    # largest term of the sum and give -103.3
    z = torch.eye(8, dtype=dtype)
    assert math.isclose(dcl(z, z, 1 / 150).item(), math.log(14) - 150, rel_tol=1e-6)


def test_dcl_by_its_definition():
    z1, z2 = views(4)
    a, b = (torch.nn.functional.normalize(z, dim=1) for z in (z1, z2))
    terms = []
    for one, other in ((a, b), (b, a)):
        for i in range(4):
            far = [k for k in range(4) if k != i]
            total = sum((one[i] @ side[k] / 0.3).exp() for k in far for side in (one, other))
            terms.append(total.log() - one[i] @ other[i] / 0.3)
    torch.testing.assert_close(dcl(z1, z2, 0.3), torch.stack(terms).mean(), rtol=0, atol=1e-12)


def test_dclw_weights_have_mean_one():
    # the loss is linear in them: at equal cosines c nothing changes, whatever the mean of the rest is
    z = torch.eye(8, dtype=torch.float64)
    assert math.isclose(dcl(z, z, 0.1, sigma=0.5).item(), dcl(z, z, 0.1).item(), abs_tol=1e-12)
    # two items, cosines 1 and 0, sigma .5: w = 2 - (e^2, 1) / mean = (2 - 2e^2 / (e^2 + 1), 2 - 2 / (e^2 + 1));
    # every other cosine is 0, so that each anchor repels log 2 and only the first one attracts
    z1, z2 = torch.eye(4, dtype=torch.float64)[:2], torch.eye(4, dtype=torch.float64)[[0, 2]]
    w = 2 - 2 * math.exp(2) / (math.exp(2) + 1)
    assert math.isclose(dcl(z1, z2, 0.1, sigma=0.5).item(), math.log(2) - w / 0.1 / 2, abs_tol=1e-12)
    assert math.isclose(dcl(z1, z2, 0.1).item(), math.log(2) - 1 / 0.1 / 2, abs_tol=1e-12)


def test_dcl_items_of_one_record_do_not_repel():
    # 8 orthonormal items in 4 records of 2: 12 negatives remain
    z = torch.eye(8, dtype=torch.float64)
    assert math.isclose(dcl(z, z, 0.1, record=torch.arange(8) // 2).item(), math.log(12) - 10, abs_tol=1e-12)


def test_dcl_an_anchor_without_negatives_does_not_count():
    # orthonormal items of the records 0, 1, 1: the first one repels four, each of the others its two views
    z = torch.eye(3, dtype=torch.float64)
    expected = (math.log(4) + 2 * math.log(2)) / 3 - 10
    assert math.isclose(dcl(z, z, 0.1, record=torch.tensor([0, 1, 1])).item(), expected, abs_tol=1e-12)
    # one record for all leaves nobody, without a NaN in the gradient
    z1, z2 = (z.requires_grad_() for z in views())
    loss = dcl(z1, z2, 0.2, record=torch.zeros(8, dtype=torch.int64))
    loss.backward()
    assert loss == 0 and (z1.grad == 0).all() and (z2.grad == 0).all()
    # as does a batch of failed items
    assert dcl(z1, z2, 0.2, torch.zeros(8), sigma=0.5) == 0


@pytest.mark.parametrize("loss", [nt_xent, dcl, lambda *a: dcl(*a, sigma=0.5)])
def test_rows_of_weight_zero_may_hold_nan(loss):
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    there = weight > 0
    full = [z.requires_grad_() for z in views()]
    part = [z.detach()[there].requires_grad_() for z in full]
    with torch.no_grad():
        full[0][~there] = full[1][~there] = torch.nan
    record = torch.tensor([0, 0, 0, 1, 2, 2, 2, 3])
    whole, alone = loss(*full, 0.2, weight, record), loss(*part, 0.2, None, record[there])
    torch.testing.assert_close(whole, alone, rtol=0, atol=1e-12)
    whole.backward()
    alone.backward()
    for a, b in zip(full, part, strict=True):
        assert (a.grad[~there] == 0).all()
        torch.testing.assert_close(a.grad[there], b.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sigma", [None, 0.5])
def test_dcl_gradient(sigma):
    z1, z2 = (z.requires_grad_() for z in views(4, 3))
    weight, record = torch.tensor([1.0, 1, 1, 0]).double(), torch.tensor([0, 0, 1, 2])
    if sigma is None:
        assert torch.autograd.gradcheck(lambda a, b: dcl(a, b, 0.5, weight, record), (z1, z2))
        return
    # the weights of DCLW are constants: its gradient is that of the repelling and the weighted attracting part
    c = torch.nn.functional.cosine_similarity(z1, z2)[:3].detach()
    w = 2 - (c / sigma).exp() / (c / sigma).exp().mean()
    plain = dcl(z1, z2, 0.5, weight, record)
    rest = ((w - 1) * torch.nn.functional.cosine_similarity(z1, z2)[:3]).mean() / 0.5
    expected = torch.autograd.grad(plain - rest, (z1, z2))
    found = torch.autograd.grad(dcl(z1, z2, 0.5, weight, record, sigma), (z1, z2))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_dcl_under_autocast_stays_in_single(dtype):
    # collapsed: log 14 = 2.6390573
    z = torch.ones(8, 3, dtype=dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = dcl(z, z, 0.5, sigma=0.5)
    assert loss.dtype == torch.float32
    assert math.isclose(loss.item(), 2.6390573, abs_tol=1e-5)


CASES = {
    "nt_xent": lambda z1, z2, *rest: nt_xent(z1, z2, 0.2, *rest),
    "dcl": lambda z1, z2, *rest: dcl(z1, z2, 0.2, *rest),
    "dclw": lambda z1, z2, *rest: dcl(z1, z2, 0.2, *rest, sigma=0.5),
}


@pytest.mark.parametrize("name", CASES)
def test_lightly_agrees(lightly, name, two_ranks):
    z1, z2 = (z.float() for z in views())
    theirs = {
        "nt_xent": lightly.NTXentLoss(0.2),
        "dcl": lightly.DCLLoss(0.2),
        "dclw": lightly.DCLWLoss(0.2, sigma=0.5),
    }[name](z1, z2)
    torch.testing.assert_close(CASES[name](z1, z2), theirs, rtol=0, atol=1e-5)
    # also over two ranks, against its answer for the whole batch in one process
    for answer in two_ranks.run(f"{__file__}:on_rank", name, None, None):
        torch.testing.assert_close(answer["loss"].float(), theirs, rtol=0, atol=1e-5)


def on_rank(name, weight, record):
    """Loss, and its gradient averaged over ranks, on this rank's rows."""
    n = 8 // ranks.world()
    mine = slice(ranks.rank() * n, (ranks.rank() + 1) * n)
    z = [v[mine].requires_grad_() for v in views()]
    loss = CASES[name](*z, *(None if x is None else x[mine] for x in (weight, record)))
    loss.backward()
    return {"loss": loss.detach(), "gradient": ranks.gather(torch.cat([v.grad for v in z], 1)) / ranks.world()}


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one(two_ranks, name):
    # three of four rows count on one rank, one of four on the other; a record is on both
    weight, record = torch.tensor([1.0, 1, 0, 1, 0, 1, 0, 0]), torch.tensor([0, 0, 1, 2, 2, 2, 3, 3])
    for given in ((None, None), (weight, None), (weight, record)):
        assert_same(two_ranks.run(f"{__file__}:on_rank", name, *given), on_rank(name, *given), tolerance=1e-9)


def test_info_nce_orthonormal_and_collapsed():
    # the own key at cosine 1 and 7 others at 0: log(e^2 + 7) - 2; all alike: log 8
    z = torch.eye(8, dtype=torch.float64)
    assert math.isclose(info_nce(z, 2 * z, 0.5).item(), math.log(math.exp(2) + 7) - 2, abs_tol=1e-12)
    same = torch.ones(8, 3, dtype=torch.float64)
    assert math.isclose(info_nce(same, same, 0.1).item(), math.log(8), abs_tol=1e-12)


def test_info_nce_is_a_cross_entropy():
    q, k = views()
    cosine = torch.nn.functional.normalize(q, dim=1) @ torch.nn.functional.normalize(k, dim=1).T
    expected = torch.nn.functional.cross_entropy(cosine / 0.2, torch.arange(8))
    torch.testing.assert_close(info_nce(q, k, 0.2), expected, rtol=0, atol=1e-12)


def test_info_nce_without_rows_of_weight_zero_and_of_the_same_record():
    q, k = views()
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    here = weight > 0
    expected = info_nce(q[here], k[here], 0.2)
    q[2], k[5] = torch.nan, torch.nan
    torch.testing.assert_close(info_nce(q, k, 0.2, weight), expected, rtol=0, atol=1e-12)
    # one record: nobody but the own key is left, which costs log 1
    assert info_nce(q, k, 0.2, weight, torch.zeros(8, dtype=torch.int64)).item() == 0


def info_nce_on_rank():
    q, k = (z[ranks.rank() * 8 // ranks.world() :][: 8 // ranks.world()].requires_grad_() for z in views())
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 0, 1])[ranks.rank() * 8 // ranks.world() :][: len(q)]
    record = torch.arange(8)[ranks.rank() * 8 // ranks.world() :][: len(q)] // 3
    loss = info_nce(q, k, 0.2, weight, record)
    loss.backward()
    return {"loss": loss.detach(), "q": ranks.gather(q.grad) / ranks.world(), "k": ranks.gather(k.grad) / ranks.world()}


def test_info_nce_on_two_ranks_equals_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:info_nce_on_rank"), info_nce_on_rank(), tolerance=1e-9)


def queue(n=6, d=5):
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1)


def test_queue_nce_orthonormal_and_collapsed():
    # the own key at cosine 1 and 6 rows at 0: log(e^2 + 6) - 2; all alike: log 7
    z = torch.eye(8, dtype=torch.float64)
    met = torch.ones(6, dtype=torch.bool)
    assert math.isclose(
        queue_nce(z[:2], 3 * z[:2], z[2:], met, 0.5).item(), math.log(math.exp(2) + 6) - 2, abs_tol=1e-12
    )
    assert math.isclose(queue_nce(z[:1], z[:1], z[:1].expand(6, -1), met, 0.1).item(), math.log(7), abs_tol=1e-12)


def test_queue_nce_meets_what_it_is_told_to():
    q, k = views()
    rows = queue()
    met = torch.tensor([True, True, False, True, False, True])
    loss = queue_nce(q, k, rows, met, 0.2)
    torch.testing.assert_close(loss, queue_nce(q, k, rows[met], met[met], 0.2), rtol=0, atol=1e-12)
    # one row of a mask per query
    each = torch.stack([met, ~met] * 4)
    halves = [queue_nce(q[i::2], k[i::2], rows, each[i], 0.2) for i in (0, 1)]
    torch.testing.assert_close(queue_nce(q, k, rows, each, 0.2), sum(halves) / 2, rtol=0, atol=1e-12)
    # nobody but the own key: log 1, without a NaN in the gradient
    q.requires_grad_()
    alone = queue_nce(q, k, rows, torch.zeros(6, dtype=torch.bool), 0.2)
    alone.backward()
    assert alone == 0 and (q.grad == 0).all()


def test_queue_nce_without_rows_of_weight_zero():
    q, k = views()
    weight = torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1])
    here, met = weight > 0, torch.ones(6, dtype=torch.bool)
    expected = queue_nce(q[here], k[here], queue(), met, 0.2)
    q[~here] = k[~here] = torch.nan
    torch.testing.assert_close(queue_nce(q, k, queue(), met, 0.2, weight), expected, rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(
        lambda a: queue_nce(a, k, queue(), met, 0.2, weight), q.nan_to_num().requires_grad_()
    )


def test_queue_nce_agrees_with_lightly(lightly):
    theirs = lightly.NTXentLoss(0.2, memory_bank_size=(6, 5))
    theirs.memory_bank.bank.copy_(queue().float())
    q, k = (z.float() for z in views())
    found = queue_nce(q, k, queue().float(), torch.ones(6, dtype=torch.bool), 0.2)
    torch.testing.assert_close(found, theirs(q, k), rtol=0, atol=1e-5)


def queue_nce_on_rank():
    mine = slice(ranks.rank() * 8 // ranks.world(), (ranks.rank() + 1) * 8 // ranks.world())
    q, k = (z[mine].requires_grad_() for z in views())
    met = (torch.arange(8)[:, None] // 3 != torch.arange(6) // 2)[mine]
    loss = queue_nce(q, k, queue(), met, 0.2, torch.tensor([1.0, 1, 0, 1, 1, 0, 0, 1])[mine])
    loss.backward()
    return {"loss": loss.detach(), "q": ranks.gather(q.grad) / ranks.world(), "k": ranks.gather(k.grad) / ranks.world()}


def test_queue_nce_on_two_ranks_equals_one(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:queue_nce_on_rank"), queue_nce_on_rank(), tolerance=1e-9)
