"""SimCLR: its views and weights, and two ranks equal one."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.losses.contrastive import nt_xent
from unlabeled.core.methods.base import Context
from unlabeled.core.methods.simclr import SimCLR
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients
from unlabeled.core.testing.sync import NoWaiting

CTX = Context(seed=0, step=3, epoch=1, max_steps=10)
SPEC = InputSpec(channels=("a", "b"), units=("", ""), spacing=(0.02,))


class TestSimCLR(MethodContract):
    name = "simclr"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"projector": (12, 8)}


class TestSimCLRTokens(MethodContract):
    name = "simclr"
    options = {"projector": (12, 8)}


def batch(b=8):
    """8 windows of 4 records; one half invalid, one failed to load, one padding row."""
    g = torch.Generator().manual_seed(0)
    values = torch.randn(b, 2, 24, dtype=torch.float64, generator=g)
    valid = torch.ones(b, 1, 24, dtype=torch.bool)
    valid[1, :, 12:] = valid[2] = valid[-1] = False
    weight = torch.ones(b)
    weight[2] = weight[-1] = 0
    ids = torch.arange(b)
    spacing = torch.full((b, 1), 0.02, dtype=torch.float64)
    return Batch({"x": Dense(values, valid, spacing)}, ids, ids // 2, ids // 2, weight, {})


def noise(batch, draw):
    x = batch.inputs["x"]
    return batch.with_inputs(x=replace(x, values=x.values + 0.5 * draw.normal("noise", *x.values.shape[1:])))


def method(kind="convnet", views=noise, **options):
    torch.manual_seed(0)
    specs = {"x": SPEC}
    if kind == "convnet":
        encoder = ConvNet(specs, ConvNet.Options(channels=(4, 6), kernels=(5, 3), strides=(2, 2)))
    else:
        encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=2, heads=2, patch=(4,)))
    return SimCLR(encoder, specs, SimCLR.Options(**({"projector": (12, 8)} | options)), views).double()


def test_two_views_of_one_item_differ_and_are_keyed():
    m = method()
    one, two = m.on_batch(batch(), CTX)
    assert not torch.equal(one.inputs["x"].values, two.inputs["x"].values)
    again = m.on_batch(batch(), replace(CTX, step=9))
    assert torch.equal(again[1].inputs["x"].values, two.inputs["x"].values)


def test_collapsed_features_cost_log_of_the_others():
    # a projector that gives one vector: 6 rows count, so log(2 * 6 - 1) if all repel
    m = method(same_record_negatives=True)
    torch.nn.init.zeros_(m.projector.layers[-1].weight)
    torch.nn.init.ones_(m.projector.layers[-1].bias)
    assert math.isclose(m.step(m.on_batch(batch(), CTX), CTX)["loss"].item(), math.log(11), abs_tol=1e-12)
    # records 0, 0, (1), 1, 2, 2, 3, (3): the items 0, 1, 4, 5 lose two negatives, 3 and 6 lost theirs to weight 0
    m = method()
    torch.nn.init.zeros_(m.projector.layers[-1].weight)
    torch.nn.init.ones_(m.projector.layers[-1].bias)
    expected = (4 * math.log(9) + 2 * math.log(11)) / 6
    assert math.isclose(m.step(m.on_batch(batch(), CTX), CTX)["loss"].item(), expected, abs_tol=1e-12)


def test_the_loss_is_that_of_the_projections():
    m = method("tokens", temperature=0.4, same_record_negatives=True).eval()
    views = m.on_batch(batch(), CTX)
    z = [m.projector(m.encoder(v.inputs).pooled) for v in views]
    out = m.step(views, CTX)
    torch.testing.assert_close(out["loss"], nt_xent(*z, 0.4, batch().weight), rtol=0, atol=1e-12)
    assert torch.equal(out["embedding"], m.encoder(views[0].inputs).pooled)
    assert set(out["parts"]) == {"nt_xent"}


@pytest.mark.parametrize("kind", ["convnet", "tokens"])
def test_rows_of_weight_zero_change_nothing(kind):
    plain, spoiled = batch(), batch()
    spoiled.inputs["x"].values[[2, 7]] = torch.nan
    spoiled.inputs["x"].values[1, :, 12:] = 1e6
    results = [step_and_gradients(method(kind), b, CTX) for b in (plain, spoiled)]
    assert all(value.isfinite().all() for value in results[1].values())
    assert_same(results[:1], results[1], tolerance=1e-12)


@pytest.mark.parametrize("kind", ["convnet", "tokens"])
def test_a_step_does_not_wait_for_the_device(kind):
    m = method(kind)
    with NoWaiting():
        m.step(m.on_batch(batch(), CTX), CTX)["loss"].backward()


@pytest.mark.parametrize("kind", ["convnet", "tokens"])
def test_bfloat16_agrees_with_single(kind):
    # cosines of bfloat16 features differ by about 2^-8, divided by the temperature of 1
    m = method(kind, temperature=1.0).float()
    x = batch().inputs["x"]
    views = m.on_batch(batch().with_inputs(x=replace(x, values=x.values.float())), CTX)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = m.step(views, CTX)["loss"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, m.step(views, CTX)["loss"], rtol=0.01, atol=0)


def test_it_learns():
    m = method()
    losses = descent(m, batch(), 40, ctx=CTX)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


@pytest.mark.parametrize("kind", ["convnet", "tokens"])
def test_rows_of_weight_zero_are_not_there(kind):
    # neither as negatives nor in the norms; draws follow the item, so the other rows keep their views
    full, there = batch(), torch.tensor([0, 1, 3, 4, 5, 6])
    x = full.inputs["x"]
    part = Dense(x.values[there], x.valid[there], x.spacing[there])
    ids = [full.index[there], full.record[there], full.group[there]]
    alone = step_and_gradients(method(kind), Batch({"x": part}, *ids, torch.ones(6), {}), CTX)
    assert_same([step_and_gradients(method(kind), full, CTX)], alone, tolerance=1e-12)


def task(kind, options):
    return step_and_gradients(method(kind, **options), share(batch()), CTX)


@pytest.mark.parametrize("kind", ["convnet", "tokens"])
@pytest.mark.parametrize("options", [{}, {"same_record_negatives": True}])
def test_two_ranks_equal_one(two_ranks, kind, options):
    # batch norm in the convnet and in the projector, both with unequal counts on the ranks
    alone = task(kind, options)
    assert any(name.startswith("buffer projector") for name in alone)
    assert sum(name.startswith("grad") for name in alone) == len(list(method(kind).parameters()))
    assert_same(two_ranks.run(f"{__file__}:task", kind, options), alone, tolerance=1e-9)
