"""TOV-VICReg."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.losses.decorrelation import variance_and_covariance
from unlabeled.core.methods.base import unchanged
from unlabeled.core.methods.tov_vicreg import TOVVICReg
from unlabeled.core.methods.vicreg import VICReg
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.method import CTX, Grids, MethodContract


class TestTOVVICReg(MethodContract):
    name = "tov_vicreg"
    shape = (6, 8, 8)
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (1, 4, 4)})
    options = {"projector": (12, 8), "gap": (1, 2)}


def made(**options):
    m = TestTOVVICReg.method(**options).double()
    m.views = unchanged
    return m


def numbered(items=600, frames=6):
    """Clips in which every cell of a frame holds the frame's number."""
    values = torch.arange(frames, dtype=torch.float64).view(1, 1, -1, 1, 1).expand(items, 2, frames, 8, 8)
    valid = torch.ones(items, 1, frames, 8, 8, dtype=torch.bool)
    x = Dense(values, valid, torch.ones(items, 3, dtype=torch.float64))
    at = torch.arange(items)
    return replace(TestTOVVICReg.batch(), inputs={"x": x}, index=at, record=at, group=at, weight=torch.ones(items))


def number(piece):
    """Of the frame in every item of a batch; all of its cells hold it."""
    values = piece.inputs["x"].values.flatten(1)
    assert (values == values[:, :1]).all()
    return values[:, 0]


def test_three_frames_lie_in_time_and_apart():
    drawn = made().on_batch(numbered(), CTX)
    before, frame, other, after = (number(p) for p in (drawn.before, drawn.view, drawn.other, drawn.after))
    assert torch.equal(frame, other) and torch.equal(frame - before, after - frame)
    assert sorted((after - frame).unique().tolist()) == [1, 2]
    # of 6 frames the first of three begins at 0 to 3 where they are one apart, at 0 or 1 where they are two
    assert [before[after - frame == gap].max().item() for gap in (1, 2)] == [3, 1]
    assert (drawn.weight == 1).all()


def test_orders_are_drawn_for_each_item():
    # 6 orders alike: 100 of 600 each, deviation sqrt(600 * 1/6 * 5/6) = 9
    drawn = made().on_batch(numbered(), CTX)
    orders, counts = drawn.order.unique(dim=0, return_counts=True)
    assert orders.tolist() == [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    assert (counts - 100).abs().max() < 40
    # balanced: 300 in order, 60 of each other, deviation 12 and 7
    _, counts = made(in_order_share=0.5).on_batch(numbered(), CTX).order.unique(dim=0, return_counts=True)
    assert abs(counts[0] - 300) < 50 and (counts[1:] - 60).abs().max() < 30
    # and an item has its own wherever it stands
    turned = replace(numbered(), index=torch.arange(600).flip(0))
    assert torch.equal(made().on_batch(turned, CTX).order, drawn.order.flip(0))


@pytest.mark.parametrize(("share", "floor"), [(1 / 6, 0.4505612), (0.5, math.log(2))])
def test_the_floor_of_a_constant_answer(share, floor):
    # a layer without weights answers with the share of the items that are out of order: it pays the entropy of the share,
    # -(1/6 ln 1/6 + 5/6 ln 5/6) = .45056, here with the share that was drawn
    m = made(in_order_share=share)
    drawn = m.on_batch(numbered(), CTX)
    p = (drawn.order != torch.arange(3)).any(1).double().mean()
    with torch.no_grad():
        m.judge.weight.zero_()
        m.judge.bias.fill_(torch.logit(p))
    told = m.step(drawn, CTX)["parts"]["order"]
    assert told.item() == pytest.approx(-(p * p.log() + (1 - p) * (1 - p).log()).item(), abs=1e-9)
    # whose slope at 1/6 is ln 5: four deviations of p, .015 each, are less than .1
    assert told.item() == pytest.approx(floor, abs=0.1)
    with torch.no_grad():
        m.judge.bias.fill_(math.log((1 - share) / share))
    exact = -((1 - p) * math.log(share) + p * math.log(1 - share)).item()
    assert m.step(drawn, CTX)["parts"]["order"].item() == pytest.approx(exact, abs=1e-9)


def test_the_layer_reads_the_frames_as_they_are_laid():
    m = made().eval()
    drawn = m.on_batch(TestTOVVICReg.batch(), CTX)
    in_time = [m.encoder(p.inputs).pooled for p in (drawn.before, drawn.view, drawn.after)]
    losses = []
    for i in torch.nonzero(drawn.weight)[:, 0].tolist():
        order = drawn.order[i].tolist()
        logit = m.judge(torch.cat([in_time[k][i] for k in order]))[0]
        p = torch.sigmoid(logit)
        losses.append(-(1 - p).log() if order == [0, 1, 2] else -p.log())
    out = m.step(drawn, CTX)
    torch.testing.assert_close(out["parts"]["order"], torch.stack(losses).mean(), rtol=0, atol=1e-12)
    assert 1 < len(losses) < 8
    # every frame teaches the encoder
    for piece in ("before", "view", "after"):
        values = getattr(drawn, piece).inputs["x"].values.clone().requires_grad_()
        shown = replace(
            drawn, **{piece: getattr(drawn, piece).with_inputs(x=replace(drawn.view.inputs["x"], values=values))}
        )
        assert torch.autograd.grad(m.step(shown, CTX)["loss"], values)[0].abs().sum() > 0


def test_the_other_terms_are_those_of_vicreg():
    m = made(invariance=25.0, variance=25.0, covariance=1.0, order=0.0).eval()
    m.views = TestTOVVICReg.views
    drawn = m.on_batch(TestTOVVICReg.batch(), CTX)
    plain = VICReg(m.encoder, m.specs, VICReg.Options(projector=(12, 8))).double().eval()
    plain.projector = m.projector
    wanted, found = plain.step((drawn.view, drawn.other), CTX), m.step(drawn, CTX)
    torch.testing.assert_close(found["loss"], wanted["loss"], rtol=0, atol=1e-12)
    assert {k: v for k, v in found["parts"].items() if k != "order"} == wanted["parts"]
    m = made()
    assert (m.options.invariance, m.options.variance, m.options.covariance, m.options.order) == (10, 10, 10, 0.1)


def test_the_covariance_counts_the_items_that_are_there():
    # 3 of 8 rows count: sums over 3 - 1, not over the batch size less 1 as in the authors' code
    z = torch.randn(8, 4, dtype=torch.float64)
    weight = torch.tensor([0.0, 1, 0, 1, 1, 0, 0, 0], dtype=torch.float64)
    cov = torch.cov(z[weight > 0].T)
    off = (cov.square().sum() - cov.diagonal().square().sum()) / 4
    torch.testing.assert_close(variance_and_covariance(z, weight)[1], off, rtol=0, atol=1e-12)


def test_a_short_clip_is_in_no_order():
    m = made()
    short = m.on_batch(numbered(items=8, frames=2), CTX)
    assert (short.weight == 0).all()
    parts = m.step(short, CTX)["parts"]
    assert parts["order"] == 0 and parts["variance"] > 0
    # three frames have room for one place only
    drawn = m.on_batch(numbered(items=8, frames=3), CTX)
    assert [number(p).unique().tolist() for p in (drawn.before, drawn.view, drawn.after)] == [[0.0], [1.0], [2.0]]


def test_frames_may_be_encoded_together():
    drawn = made(length=2).on_batch(numbered(), CTX)
    starts = [p.inputs["x"].values[:, 0, 0, 0, 0] for p in (drawn.before, drawn.view, drawn.after)]
    assert drawn.view.inputs["x"].values.shape[2] == 2
    assert [s.unique().tolist() for s in starts] == [[0.0], [2.0], [4.0]]


def test_it_tells_the_order_of_moving_clips():
    # a bar moves to the right: after some steps the answers cost less than the floor, ln 2 = .69
    torch.manual_seed(0)
    m = made(in_order_share=0.5, invariance=0.0, variance=0.0, covariance=0.0, order=1.0)
    batch = numbered(64)
    place = torch.arange(6).view(1, 1, 6, 1, 1) + torch.arange(64).view(-1, 1, 1, 1, 1) % 3
    bar = (torch.arange(8) == place).double().expand(64, 2, 6, 8, 8)
    batch = batch.with_inputs(x=replace(batch.inputs["x"], values=bar))
    optimiser = torch.optim.AdamW(m.parameters(), 1e-2)
    for step in range(40):
        ctx = replace(CTX, step=step, epoch=step)
        loss = m.step(m.on_batch(batch, ctx), ctx)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.5


def test_it_needs_a_time_axis():
    specs = Grids((24,)).specs
    encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(4,)))
    with pytest.raises(
        RequestError, match=r"the input 'x' has no frames, which need a time axis before others; use vicreg"
    ):
        TOVVICReg(encoder, specs, TOVVICReg.Options())
