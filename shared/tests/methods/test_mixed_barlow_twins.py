"""Mixed Barlow Twins."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core import ranks
from unlabeled.core.contracts import RequestError
from unlabeled.core.losses.decorrelation import barlow_twins, mixing, standardised
from unlabeled.core.methods.base import unchanged
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, share


class TestMixedBarlowTwins(MethodContract):
    name = "mixed_barlow_twins"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (3, 3), "strides": (2, 2)})
    options = {"projector": (12, 8)}
    shape = (8, 8)


class TestMixedBarlowTwinsTokens(MethodContract):
    name = "mixed_barlow_twins"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})
    options = {"projector": (12, 8)}


COUNTED = [0, 1, 4, 5, 6, 7]


def made(like=TestMixedBarlowTwins, **options):
    return like.method(**options).double()


def given(m, ctx=CTX, like=TestMixedBarlowTwins):
    return m.on_batch(like.batch(), ctx)


def test_the_loss_is_that_of_the_projections():
    m = made().eval()
    batch = given(m)
    views = (batch.mixture, batch.first, batch.second)
    z, z1, z2 = (m.projector(m.encoder(v.inputs).pooled) for v in views)
    weight = batch.first.weight
    out = m.step(batch, CTX)
    unit = [standardised(x, weight) for x in (z, z1, z2)]
    mixtures = mixing(*unit, unit[2][batch.other], batch.share, weight)
    torch.testing.assert_close(out["parts"]["mixing"], mixtures, rtol=1e-12, atol=0)
    torch.testing.assert_close(out["parts"]["barlow_twins"], barlow_twins(z1, z2, 0.0051, weight), rtol=1e-12, atol=0)
    expected = out["parts"]["barlow_twins"] + 4 * 0.0051 * mixtures
    torch.testing.assert_close(out["loss"], expected, rtol=1e-12, atol=0)
    assert mixtures > 1e-3 and torch.equal(out["embedding"], m.encoder(batch.first.inputs).pooled) and m.couples


def test_a_mixture_of_one_item_costs_nothing():
    # a share of 1: the mixture is the first view, and its correlations are those of the first view
    m = made().eval()
    batch = given(m)
    assert m.step(batch, CTX)["parts"]["mixing"] > 1e-3
    alone = replace(batch, mixture=batch.first, share=1.0)
    assert m.step(alone, CTX)["parts"]["mixing"] == 0


def test_a_linear_network_costs_nothing():
    # the pixels themselves are a linear map of the mixture; without the scale of each, the terms are the same sums
    m = made()
    batch = given(m)
    x, a, b = (v.inputs["x"] for v in (batch.mixture, batch.first, batch.second))
    both = (a.valid & b.valid[batch.other]).flatten(1).all(1)
    z, z1, z2 = (v.values.flatten(1) for v in (x, a, b))
    assert both.sum() > 2
    assert mixing(z, z1, z2, z2[batch.other], batch.share, both.double()) < 1e-26
    assert mixing(z, z1, z2, z2, batch.share, both.double()) > 1e-2


def test_who_is_mixed_with_whom():
    m = made()
    batch = given(m)
    # a ring of the six that count: each takes one and gives one, and never its own
    assert sorted(batch.other[COUNTED].tolist()) == COUNTED
    assert (batch.other[COUNTED] != torch.tensor(COUNTED)).all()
    shares = [given(m, replace(CTX, step=s)).share for s in range(200)]
    # uniform in [0, 1): mean 1/2, deviation of the mean of 200 is .0204
    assert all(0 <= s < 1 for s in shares) and abs(sum(shares) / 200 - 0.5) < 0.07
    assert given(m).share == batch.share and len(set(shares)) == 200
    orders = {tuple(given(m, replace(CTX, step=s)).other.tolist()) for s in range(20)}
    assert len(orders) > 10


def test_without_mixtures_it_is_barlow_twins():
    m = made(mixing=0.0).eval()
    batch = given(m)
    z1, z2 = (m.projector(m.encoder(v.inputs).pooled) for v in (batch.first, batch.second))
    expected = barlow_twins(z1, z2, 0.0051, batch.first.weight)
    torch.testing.assert_close(m.step(batch, CTX)["loss"], expected, rtol=1e-12, atol=0)


def test_inputs_need_a_grid():
    m = made()
    specs = {"x": m.specs["x"].model_copy(update={"layout": "tokens"})}
    with pytest.raises(RequestError, match="'x' has no grid, so that items cannot be mixed"):
        type(m)(m.encoder, specs, m.options, unchanged)


def on_rank():
    batch = made().on_batch(share(TestMixedBarlowTwins.batch()), CTX)
    x = batch.mixture.inputs["x"]
    return {
        "values": ranks.gather(x.values),
        "valid": ranks.gather(x.valid.byte()),
        "other": ranks.gather(batch.other),
        "share": torch.tensor(batch.share),
    }


def test_mixtures_do_not_depend_on_the_ranks(two_ranks):
    alone = on_rank()
    assert alone["values"].abs().max() > 0.1
    assert_same(two_ranks.run(f"{__file__}:on_rank"), alone, tolerance=1e-12)


@pytest.mark.slow
def test_it_learns():
    m = made()
    optimiser = torch.optim.Adam(m.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        out = m.step(given(m), CTX)
        out["loss"].backward()
        optimiser.step()
        losses.append([out["loss"].item(), out["parts"]["mixing"].item()])
    assert losses[-1][0] < 0.5 * losses[0][0] and losses[-1][1] < losses[0][1]
