"""Jigsaw beside a contrast: the contract, and what an undecided head costs."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.build import with_terms
from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.contracts.recipe import Term
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.tokens.jigsaw import far_orders


class TestSimCLRWithJigsaw(MethodContract):
    """Segments of a series: 4 of them, in 6 of their 24 orders."""

    name = "simclr"
    options = {"projector": (12, 8)}
    term = {"parts": 4, "orders": 6}

    @classmethod
    def method(cls, **options):
        return with_terms(super().method(**options), (Term(name="jigsaw", weight=0.3, **cls.term),), seed=0)


class TestSimCLRWithJigsawAndRotation(TestSimCLRWithJigsaw):
    """Of an image, beside another term; half of one item is invalid, and is cut within its own extent."""

    encoder = ("convnet", {"channels": (8, 12), "kernels": (3, 3), "strides": (2, 1)})
    shape = (8, 8)

    @classmethod
    def method(cls, **options):
        plain = MethodContract.method.__func__(cls, **options)
        return with_terms(plain, (Term(name="rotation", weight=0.5), Term(name="jigsaw", hidden=(8,))), seed=0)


def undecided(kind, **options):
    m = kind.method(**options).double()
    torch.nn.init.zeros_(m.beside["jigsaw"].head.layers[-1].weight)
    torch.nn.init.zeros_(m.beside["jigsaw"].head.layers[-1].bias)
    return m


def test_an_undecided_head_costs_ln_of_the_orders():
    m = undecided(TestSimCLRWithJigsaw)
    out = m.step(m.on_batch(TestSimCLRWithJigsaw.batch(), CTX), CTX)
    assert math.isclose(out["parts"]["jigsaw"].item(), math.log(6), abs_tol=1e-12)  # 1.7917595
    assert math.isclose(out["loss"].item(), out["parts"]["nt_xent"].item() + 0.3 * math.log(6), abs_tol=1e-12)
    # 2 x 2 parts have 24 orders, and all of them are taken
    m = undecided(TestSimCLRWithJigsawAndRotation)
    out = m.step(m.on_batch(TestSimCLRWithJigsawAndRotation.batch(), CTX), CTX)
    assert math.isclose(out["parts"]["jigsaw"].item(), math.log(24), abs_tol=1e-12)  # 3.1780538
    total = out["parts"]["nt_xent"] + 0.5 * out["parts"]["rotation"] + out["parts"]["jigsaw"]
    torch.testing.assert_close(out["loss"].detach(), total, rtol=0, atol=1e-12)


def test_the_label_is_the_draws():
    m, batch = undecided(TestSimCLRWithJigsaw), TestSimCLRWithJigsaw.batch()
    drawn = (6 * CTX.draw(batch, "jigsaw").uniform("order")).long().flatten()
    orders = far_orders(4, 6)
    term = m.beside["jigsaw"]

    class Heard(torch.nn.Module):
        def forward(self, inputs):
            for i in (0, 4, 5, 6, 7):  # 4 segments of 6 cells
                parts = batch.inputs["x"].values[i].unflatten(1, (4, 6))
                assert torch.equal(inputs["x"].values[i], parts[:, orders[drawn[i]]].flatten(1))
            return replace(m.encoder(inputs), pooled=torch.nn.functional.one_hot(told, 16).double())

    # a head that repeats what its features say, 50 times over: wrong costs 50. Items 2 and 3 failed and are not asked;
    # item 1, of 12 valid cells, is: its segments have 3
    term.head.layers[-1].weight.data = 50 * torch.eye(6, 16, dtype=torch.float64)
    told = drawn.clone()
    told[[2, 3]] = (drawn[[2, 3]] + 1) % 6
    assert term.loss(Heard(), batch, CTX).item() < 1e-12
    told[1] = (drawn[1] + 1) % 6
    assert math.isclose(term.loss(Heard(), batch, CTX).item(), 50 / 6, abs_tol=1e-9)


def test_it_learns_the_order():
    steps = torch.arange(4.0).repeat_interleave(6).expand(16, 2, 24) - 1.5
    noise = 0.1 * torch.randn(16, 2, 24, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(16)
    x = Dense(steps + noise, torch.ones(16, 1, 24, dtype=torch.bool), torch.ones(16, 1), whole=True)
    batch = Batch({"x": x}, ids, ids, ids, torch.ones(16), {})
    m = TestSimCLRWithJigsaw.method()
    descent(m, batch, 60)
    with torch.no_grad():
        part = m.step(m.on_batch(batch, CTX), CTX)["parts"]["jigsaw"]
    assert part < 0.5 * math.log(6)


def test_wrong_requests_are_said():
    plain = MethodContract.method.__func__(TestSimCLRWithJigsaw)
    with pytest.raises(RequestError, match=r"jigsaw has 3 parts, which have 6 orders, and not 7; set orders lower"):
        with_terms(plain, (Term(name="jigsaw", parts=3, orders=7),), seed=0)
    m = with_terms(plain, (Term(name="jigsaw", parts=13),), seed=0)
    batch = TestSimCLRWithJigsaw.batch()
    x = batch.inputs["x"]
    short = Dense(x.values[..., :12].float(), torch.ones(8, 1, 12, dtype=torch.bool), x.spacing.float(), whole=True)
    with pytest.raises(
        RequestError, match=r"cuts 13 parts along every axis, and the items have .12,. cells; set parts lower"
    ):
        m.step(m.on_batch(batch.with_inputs(x=short), CTX), CTX)
