"""NEPA: its contract and oracles."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.nepa import NEPA
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.events import EVENTS, pack
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients

CAUSAL = {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4), "causal": (1, 1), "positions": "rope"}


class TestNEPA(MethodContract):
    name = "nepa"
    shape = (16, 16)
    encoder = ("tokens", CAUSAL)


class TestNEPASignal(MethodContract):
    name = "nepa"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,), "causal": (1,), "cls": True})


def given(of=TestNEPA):
    m = of.method().double()
    return m, m.on_batch(of.batch(), CTX)


def counted(t, weight):
    """(pairs of neighbours (B, L - 1), first tokens (B,)) that count; valid tokens are a box that begins at the corner."""
    return t.valid[:, 1:] & t.valid[:, :-1] & (weight > 0)[:, None], t.valid[:, 0] & (weight > 0)


def test_the_features_being_the_next_embedding_costs_minus_one():
    m, batch = given(TestNEPASignal)
    target = m.encoder.projected("x", batch.tokens["x"])
    # the class token comes first, so what leaves it and all tokens but the last is to be the embeddings, at any size
    m.encoder.transformer.register_forward_hook(lambda module, args, out: torch.cat([3 * target, out[:, :1]], 1))
    out = m.step(batch, CTX)
    assert out["loss"].item() == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize("of", [TestNEPA, TestNEPASignal])
def test_the_loss_is_the_mean_cosine_of_neighbours(of):
    m, batch = given(of)
    t, w = batch.tokens["x"], batch.weight
    features, target = m.encoder.encode(batch.tokens), m.encoder.projected("x", t)
    cosines = []
    for b in range(8):
        at = t.valid[b].nonzero().flatten().tolist() if w[b] > 0 else []
        said = [features.tokens[b, i] for i in at]
        if features.cls is not None and at:
            said, at = [features.cls[b], *said], [None, *at]
        cosines += [
            torch.nn.functional.cosine_similarity(h, target[b, i], dim=0) for h, i in zip(said, at[1:], strict=False)
        ]
    # of 5 whole items and one of which half is valid: pairs of 16 and 8 tokens, or, with a class token, all of 6 and 3
    assert len(cosines) == (5 * 15 + 7 if of is TestNEPA else 5 * 6 + 3)
    loss = m.step(batch, CTX)["loss"]
    torch.testing.assert_close(loss, -torch.stack(cosines).mean(), rtol=0, atol=1e-12)


def test_a_term_sees_no_later_patch_and_its_target_gets_no_gradient():
    m, batch = given()
    t = batch.tokens["x"]
    for at in (0, 6, 14):
        patches = t.patches.clone().requires_grad_()
        tokens = {"x": replace(t, patches=patches)}
        h, e = m.encoder.encode(tokens).tokens[0, at], m.encoder.projected("x", tokens["x"])[0, at + 1]
        (through_h,) = torch.autograd.grad(h[0], patches)
        seen = through_h[0].abs().sum(-1) > 0
        assert torch.equal(seen, torch.arange(16) <= at)
        # the target hangs on the next patch alone, and the step lets no gradient through it
        (through_e,) = torch.autograd.grad(e.sum(), patches)
        assert (through_e[0].abs().sum(-1) > 0).nonzero().flatten().tolist() == [at + 1]
    # the last patch of a row is a target only: no gradient of the loss reaches it
    patches = t.patches.clone().requires_grad_()
    m.step(replace(batch, tokens={"x": replace(t, patches=patches)}), CTX)["loss"].backward()
    got = patches.grad.abs().sum(-1) > 0
    pairs, _ = counted(t, batch.weight)
    whole = torch.arange(8) != 1
    assert torch.equal(got[whole][:, :-1], pairs[whole]) and not got[:, -1].any()


def test_an_item_with_a_hole_predicts_the_next_valid_one():
    m, batch = given()
    t = batch.tokens["x"]
    # of the second item the right half is invalid: tokens 0 1 4 5 8 9 12 13 are read in this order
    assert t.valid[1].nonzero().flatten().tolist() == [0, 1, 4, 5, 8, 9, 12, 13]
    assert batch.at[1, :8].tolist() == [0, 1, 4, 5, 8, 9, 12, 13]
    changed = t.patches.clone()
    changed[1, [2, 3, 6, 15]] = 7.0
    other = replace(batch, tokens={"x": replace(t, patches=changed)})
    torch.testing.assert_close(m.step(other, CTX)["loss"], m.step(batch, CTX)["loss"], rtol=0, atol=1e-12)


def packed():
    ids = torch.arange(8)
    values = torch.randn(24, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x = pack(values, [9, 5, 0, 2, 1, 0, 3, 4])
    x.coords[1] = x.coords[0]  # two events at the same time
    return Batch({"x": x}, ids, ids, ids, torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0]), {})


def of_events():
    torch.manual_seed(0)
    encoder = TokenEncoder({"x": EVENTS}, TokenEncoder.Options(width=16, depth=1, heads=2, causal=(1,)))
    return NEPA(encoder, {"x": EVENTS}, NEPA.Options()).double()


def on_rank():
    return step_and_gradients(of_events(), share(packed()), CTX)


def test_packed_events_on_two_ranks(two_ranks):
    m = of_events()
    batch = m.on_batch(packed(), CTX)
    # of the first 9 events the fourth is invalid, and the first two share their time: each has seen the other
    assert batch.at[0].tolist()[:8] == [0, 1, 2, 4, 5, 6, 7, 8]
    order = batch.order[0, :8]
    assert (order.diff() > 0).tolist() == [False, True, True, True, True, True, True]
    t = batch.tokens["x"]
    swapped = t.patches.clone()
    swapped[0, 1] += 5
    h = [m.encoder.encode({"x": replace(t, patches=p)}).tokens[0, 0] for p in (t.patches, swapped)]
    assert (h[0] - h[1]).abs().max() > 1e-3
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)


def test_the_spread_of_the_targets_is_told():
    m, batch = given()
    out = m.step(batch, CTX)
    assert 0.1 < out["vitals"]["target_std"] < 2
    with torch.no_grad():  # all patches embedded alike: what a collapse would be
        m.encoder.project["x"].weight.zero_()
    assert m.step(batch, CTX)["vitals"]["target_std"].item() == pytest.approx(1e-3)


def test_it_learns():
    # waves: the next patch follows from those before
    m, batch = given(TestNEPASignal)
    optimiser = torch.optim.AdamW(m.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        out = m.step(batch, CTX)
        optimiser.zero_grad()
        out["loss"].backward()
        optimiser.step()
        losses.append(out["loss"].item())
    assert losses[0] > -0.5 and losses[-1] < -0.7
    assert out["vitals"]["target_std"] > 0.1


@pytest.mark.parametrize("causal", [(), (2, 2), (1, 2)])
def test_an_encoder_that_looks_ahead_is_refused(causal):
    spec = TestNEPA.source().specs
    encoder = TokenEncoder(spec, TokenEncoder.Options(**CAUSAL | {"causal": causal}))
    with pytest.raises(RequestError, match=r"method nepa: .* set encoder\.causal to \[1, 1\]"):
        NEPA(encoder, spec, NEPA.Options())


def test_an_encoder_without_tokens_is_refused():
    spec = TestNEPA.source().specs
    with pytest.raises(RequestError, match="method nepa: needs a token encoder, got ConvNet"):
        NEPA(ConvNet(spec, ConvNet.Options()), spec, NEPA.Options())


def test_a_blank_beginning_has_a_finite_gradient():
    # without a position a blank patch was all zeros, and so was what its blocks made of it: the slope of a cosine there is
    # endless; whole digits begin so
    m = TestNEPA.method()
    m.views = lambda batch, draw: batch
    batch = TestNEPA.batch()
    x = batch.inputs["x"]
    values = x.values.float()
    values[:, :, :4] = 0  # the first row of patches
    blank = batch.with_inputs(x=replace(x, values=values))

    def steepest():
        m.zero_grad()
        m.step(m.on_batch(blank, CTX), CTX)["loss"].backward()
        return torch.stack([p.grad.norm() for p in m.parameters() if p.grad is not None]).max()

    assert steepest() < 1e4
    torch.nn.init.zeros_(m.encoder.project["x"].bias)
    assert not steepest() < 1e9
