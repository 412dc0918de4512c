"""Rotation beside a contrast: the contract, and what an undecided and a right head cost."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.build import with_terms
from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.contracts.recipe import Term
from unlabeled.core.methods.dino import DINO
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import step_and_gradients
from unlabeled.core.tokens.turns import turned


class TestSimCLRWithRotation(MethodContract):
    name = "simclr"
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (2, 2)})
    options = {"projector": (12, 8)}
    shape = (8, 8)
    weight = 0.3

    @classmethod
    def method(cls, **options):
        return with_terms(super().method(**options), (Term(name="rotation", weight=cls.weight),), seed=0)


class TestDINOWithRotation(TestSimCLRWithRotation):
    """Of a method with a teacher, whose encoder is the exported one, and in a convnet with norms."""

    name = "dino"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (3, 3), "strides": (2, 1)})
    options = {"projector": (12, 8), "prototypes": 16}


def contract(**options):
    return TestSimCLRWithRotation.method(**options).double()


def test_an_undecided_head_costs_ln_4():
    m = contract()
    torch.nn.init.zeros_(m.beside["rotation"].head.layers[-1].weight)
    torch.nn.init.zeros_(m.beside["rotation"].head.layers[-1].bias)
    out = m.step(m.on_batch(TestSimCLRWithRotation.batch(), CTX), CTX)
    assert math.isclose(out["parts"]["rotation"].item(), math.log(4), abs_tol=1e-12)  # 1.3862944
    # the loss is the method's own and 0.3 of the term
    assert math.isclose(out["loss"].item(), out["parts"]["nt_xent"].item() + 0.3 * math.log(4), abs_tol=1e-12)


def test_the_label_is_the_draws_and_oblong_items_are_not_asked():
    m, batch = contract(), TestSimCLRWithRotation.batch()
    quarter = (4 * CTX.draw(batch, "rotation").uniform("turn")).long().flatten()
    assert set(quarter.tolist()) == {0, 1, 2, 3}
    term = m.beside["rotation"]

    class Heard(torch.nn.Module):
        def forward(self, inputs):
            # each item is torch's quarter turn of what it was
            for i in (0, 4, 5, 6, 7):
                turn = torch.rot90(batch.inputs["x"].values[i], int(quarter[i]), (1, 2))
                assert torch.equal(inputs["x"].values[i], turn)
            return replace(m.encoder(inputs), pooled=torch.nn.functional.one_hot(told, 16).double())

    # a head that says what its features say, 50 times over: right costs e^-50, wrong 50. Items 1 (half of it is valid),
    # 2 and 3 (failed) are not asked
    torch.nn.init.zeros_(term.head.layers[-1].bias)
    term.head.layers[-1].weight.data = 50 * torch.eye(4, 16, dtype=torch.float64)
    told = quarter.clone()
    told[[1, 2, 3]] = (quarter[[1, 2, 3]] + 1) % 4
    assert term.loss(Heard(), batch, CTX).item() < 1e-12
    told[4] = (quarter[4] + 1) % 4
    assert math.isclose(term.loss(Heard(), batch, CTX).item(), 50 / 5, abs_tol=1e-9)


def test_turning_is_a_bijection():
    x = TestSimCLRWithRotation.batch().inputs["x"]
    quarter = torch.arange(8) % 4
    there, able = turned(x, quarter)
    back, _ = turned(there, (4 - quarter) % 4)
    assert able.tolist() == [True, False, False, False, True, True, True, True]
    assert torch.equal(back.values, x.values) and torch.equal(back.valid, x.valid)


def test_the_method_stays_what_it_was():
    plain = MethodContract.method.__func__(TestDINOWithRotation)
    found = TestDINOWithRotation.method()
    assert isinstance(found, DINO) and found.exported is found.teacher["encoder"] and found.options == plain.options
    assert found.couples == plain.couples and found.tables == plain.tables
    own, terms = plain.state_dict(), {k for k in found.state_dict() if k.startswith("beside.")}
    # its weights have the names and values that they had, the encoder is there once, and a checkpoint of it loads
    assert set(found.state_dict()) == {*own, *terms}
    assert terms == {"beside.rotation.head.layers.0.weight", "beside.rotation.head.layers.0.bias"}
    assert all(torch.equal(found.state_dict()[k], v) for k, v in own.items())
    assert len(list(found.parameters())) == len(list(plain.parameters())) + 2
    assert type(plain) is DINO  # the class of other methods is as it was


def test_every_parameter_gets_a_gradient():
    found = step_and_gradients(contract(), TestSimCLRWithRotation.batch(), CTX)
    assert sum(name.startswith("grad") for name in found) == len(list(contract().parameters()))


def test_it_learns_which_way_up():
    # values rise along the width: each quarter turn makes them rise another way
    ramp = torch.linspace(-1, 1, 8).expand(16, 2, 8, 8) + 0.1 * torch.randn(
        16, 2, 8, 8, generator=torch.Generator().manual_seed(0)
    )
    ids = torch.arange(16)
    x = Dense(ramp, torch.ones(16, 1, 8, 8, dtype=torch.bool), torch.ones(16, 2), whole=True)
    batch = Batch({"x": x}, ids, ids, ids, torch.ones(16), {})
    m = TestSimCLRWithRotation.method()
    descent(m, batch, 40)
    with torch.no_grad():
        part = m.step(m.on_batch(batch, CTX), CTX)["parts"]["rotation"]
    assert part < 0.5 * math.log(4)


def test_wrong_requests_are_said():
    plain = MethodContract.method.__func__(TestSimCLRWithRotation)
    for terms, said in (
        ((Term(name="rotatoin"),), "terms.0.name: 'rotatoin' is unknown, did you mean 'rotation'"),
        ((Term(name="rotation", hiden=(3,)),), "terms.0: hiden: 'hiden' is unknown, did you mean 'hidden'"),
        ((Term(name="rotation"), Term(name="rotation")), "terms.1: rotation is there twice"),
    ):
        with pytest.raises(RequestError, match=said):
            with_terms(plain, terms, seed=0)

    class Series(TestSimCLRWithRotation):
        encoder, shape = MethodContract.encoder, (24,)

    with pytest.raises(
        RequestError, match=r"rotation needs one input on a grid of 2 axes; the encoder reads x .dense, 1 axes"
    ):
        Series.method()
    m, batch = contract(), TestSimCLRWithRotation.batch()
    x = batch.inputs["x"]
    oblong = Dense(x.values[..., :6], torch.ones(8, 1, 8, 6, dtype=torch.bool), x.spacing, whole=True)
    given = m.on_batch(batch.with_inputs(x=oblong), CTX)
    with pytest.raises(
        RequestError, match=r"turns square items, and these have 8 x 6 cells; set data.window to a square"
    ):
        m.step(given, CTX)
