"""iSogCLR."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.losses.sogclr import sogclr
from unlabeled.core.methods.isogclr import ISogCLR
from unlabeled.core.testing.method import BATCH, CTX, ITEMS, MethodContract
from unlabeled.core.testing.ranks import assert_same, share
from unlabeled.core.training import checkpoint
from unlabeled.core.training.step import floating


class TestISogCLR(MethodContract):
    name = "isogclr"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"projector": (12, 8)}


class TestISogCLRTokens(MethodContract):
    name = "isogclr"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})
    options = {"projector": (12, 8), "same_record_negatives": True, "temperature_lr": 0.1}


COUNTED = [0, 1, 4, 5, 6, 7]


def made(like=TestISogCLR, **options):
    return like.method(**options).double()


def step(m, batch=None):
    batch = TestISogCLR.batch() if batch is None else batch
    out = m.step(m.on_batch(batch, CTX), CTX)
    out["loss"].backward()
    m.after_backward(CTX)
    return out


def collapsed(**options):
    """All similarities are 1."""
    m = made(**options)
    torch.nn.init.zeros_(m.projector.layers[-1].weight)
    torch.nn.init.ones_(m.projector.layers[-1].bias)
    return m


def test_uniform_similarities_lower_the_temperature_by_rho():
    # the weights are uniform: the gradient of tau is rho = 6, clipped to 3; u = .5 * 3, tau = .5 - .01 * 1.5
    m = collapsed(temperature=0.5, rho=6.0, temperature_lr=0.01)
    out = step(m)
    assert abs(out["loss"].item()) < 1e-12 and math.isclose(out["vitals"]["temperature"].item(), 0.5)
    assert m.u[COUNTED].tolist() == pytest.approx([1.5] * 6, abs=1e-12)
    assert m.tau[COUNTED].tolist() == pytest.approx([0.485] * 6, abs=1e-12)
    assert m.s[COUNTED].tolist() == pytest.approx([math.exp(2)] * 6, abs=1e-9)
    # rho = 2 is not clipped; the second time u = .5 * 1 + .5 * 2
    m = collapsed(temperature=0.5, rho=2.0, temperature_lr=0.0)
    step(m)
    assert m.u[COUNTED].tolist() == pytest.approx([1.0] * 6, abs=1e-12)
    step(m)
    assert m.u[COUNTED].tolist() == pytest.approx([1.5] * 6, abs=1e-12)
    assert m.tau.tolist() == pytest.approx([0.5] * ITEMS, abs=1e-7)


def test_tables_follow_the_loss_of_the_projections():
    m = made().eval()
    with torch.no_grad():
        m.tau.copy_(torch.linspace(0.1, 0.9, ITEMS))
        m.s.copy_(torch.linspace(1, 2, ITEMS))
        m.u.copy_(torch.linspace(-1, 1, ITEMS))
    tau, s, u = m.tau.clone(), m.s.clone(), m.u.clone()
    views = m.on_batch(TestISogCLR.batch(), CTX)
    z = [m.projector(m.encoder(v.inputs).pooled) for v in views]
    found = sogclr(*z, tau[:BATCH], s[:BATCH], 0.8, views[0].weight, views[0].record)
    out = step(m)
    torch.testing.assert_close(out["loss"], found.loss, rtol=0, atol=1e-12)
    at = torch.tensor(COUNTED)
    moved = 0.5 * u[at] + 0.5 * (found.slope[at] + 0.4).clamp(-3, 3)
    torch.testing.assert_close(m.s[at], found.average[at].detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(m.u[at], moved.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(m.tau[at], (tau[at] - 0.03 * moved).clamp(0.05, 1).detach(), rtol=0, atol=1e-12)
    # nobody else's numbers moved: not those of the two that failed, nor of items that are not in the batch
    others = [i for i in range(ITEMS) if i not in COUNTED]
    for table, before in ((m.tau, tau), (m.s, s), (m.u, u)):
        assert torch.equal(table[others], before[others])


def test_padding_touches_nothing():
    # rows of item -1 have no weight; the first item is not in the batch
    batch = TestISogCLR.batch()
    index = batch.index.clone() + 1
    index[[2, 3]] = -1
    m = made()
    step(m, replace(batch, index=index))
    at = [1, 2, 5, 6, 7, 8]
    assert (m.s[at] > 0).all() and (m.s > 0).sum() == 6


def test_temperatures_stay_within_their_limits():
    for options, limit in (({"rho": 6.0}, 0.05), ({"rho": 0.0, "temperature": 0.11, "tau_max": 0.12}, 0.12)):
        m = made(temperature_lr=10.0, **options)
        step(m)
        assert (m.tau[COUNTED] == limit).all()


def twice():
    """The batch with its first item again in its place 4 (on the other rank), and in its place 7, where it failed."""
    batch = TestISogCLR.batch()
    index, weight = batch.index.clone(), batch.weight.clone()
    index[[4, 7]], weight[7] = 0, 0
    return replace(batch, index=index, weight=weight)


def test_an_item_that_comes_twice_gets_the_mean():
    m = made()
    views = m.on_batch(twice(), CTX)
    z = [m.projector(m.encoder(v.inputs).pooled, v.weight) for v in views]
    found = sogclr(*z, m.tau[:BATCH], m.s[:BATCH], 0.8, views[0].weight, views[0].record)
    m = made()
    step(m, twice())
    expected = (found.average[0] + found.average[4]) / 2
    torch.testing.assert_close(m.s[0], expected.detach(), rtol=1e-12, atol=0)
    assert abs(found.average[0] - found.average[4]) > 1e-3 and (m.s > 0).sum() == 4


def on_rank():
    """Two steps, so that the tables that the first one wrote matter."""
    m = made()
    for _ in range(2):
        step(m, share(twice()))
    return {name: b.clone() for name, b in m.named_buffers()}


def test_ranks_write_the_same_tables(two_ranks):
    alone = on_rank()
    assert {"tau", "s", "u"} <= set(alone)
    assert_same(two_ranks.run(f"{__file__}:on_rank"), alone, tolerance=1e-9)


def test_tables_are_as_long_as_the_data_and_are_saved(tmp_path):
    m = TestISogCLR.method()
    step(m, floating(twice(), torch.float32))
    tables = {name: b for name, b in m.named_buffers() if name in m.tables}
    # three numbers of 4 bytes an item
    assert sum(t.numel() * t.element_size() for t in tables.values()) == 12 * ITEMS and m.tables == ("tau", "s", "u")
    checkpoint.save(tmp_path, {"step": 1, "method": m.state_dict()}, keep=1)
    other = TestISogCLR.method(temperature=0.7)
    other.load_state_dict(checkpoint.newest(tmp_path)["method"])
    assert all(torch.equal(getattr(other, name), table) for name, table in tables.items())
    m.sized(5)
    assert m.tau.tolist() == pytest.approx([0.1] * 5) and m.s.tolist() == m.u.tolist() == [0.0] * 5


def test_options():
    with pytest.raises(RequestError, match="tau_min"):
        validated(ISogCLR.Options, {"tau_min": 0.001}, "method")
    assert "negative" in ISogCLR.couples


def test_it_learns():
    # positives come nearer than the negatives, which the weights make those that are near
    m = made(temperature=0.2)
    optimiser = torch.optim.Adam([*m.encoder.parameters(), *m.projector.parameters()], 3e-3)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        losses.append(step(m)["loss"].item())
        optimiser.step()
    assert losses[-1] < losses[0] - 0.5
