"""GMML: its contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.methods.gmml import GMML
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.events import EVENTS
from unlabeled.core.testing.learning import descent, stripes
from unlabeled.core.testing.method import CTX, MethodContract


class TestGMML(MethodContract):
    name = "gmml"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})


class TestGMMLZeros(MethodContract):
    name = "gmml"
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4,), "cls": True})
    options = {"noise": 0, "zeros": 1, "other": 0, "norm_target": True, "head": (16,)}


def given(**options):
    m = TestGMML.method(**options).double()
    return m, m.on_batch(TestGMML.batch(), CTX)


def hidden_of(cut):
    mask = cut.masks["x"]
    return torch.zeros_like(cut.tokens["x"].valid).scatter(1, mask.hide, mask.hide_valid)


@pytest.mark.parametrize("kind", ["noise", "zeros", "other"])
def test_only_hidden_patches_change(kind):
    only = {"noise": 0, "zeros": 0, "other": 0} | {kind: 1}
    _, cut = given(**only)
    hidden, seen, true = hidden_of(cut), cut.seen["x"], cut.tokens["x"]
    # 16 tokens of which int(16 * 0.5) = 8 are corrupted, in the first item
    assert hidden[0].sum() == 8
    assert torch.equal(seen.patches[~hidden], true.patches[~hidden])
    counts = cut.weight > 0
    assert (seen.patches != true.patches).any(-1)[hidden & counts[:, None]].all()
    assert (seen.patches[~true.elements] == 0).all()
    if kind == "zeros":
        assert (seen.patches[hidden] == 0).all()
    if kind == "noise":
        drawn = seen.patches[hidden & true.elements.all(-1)]
        # 5 whole items of 8 hidden patches and half of one, 32 numbers each: the mean of n > 1000 normal numbers
        assert drawn.numel() > 1000 and drawn.mean().abs() < 4 / drawn.numel() ** 0.5
        assert (drawn.std() - 1).abs() < 0.1


def test_another_items_patches_come_from_the_same_places():
    _, cut = given(noise=0, other=1)
    hidden, seen, true = hidden_of(cut), cut.seen["x"], cut.tokens["x"]
    givers = set()
    for row in torch.nonzero(cut.weight).flatten().tolist():
        expected = torch.where(hidden[row, :, None] & true.elements[row], true.patches, true.patches[row])
        same = [r for r in range(8) if torch.equal(expected[r], seen.patches[row])]
        # rows of weight 0 give nothing, nobody gives to itself, and everyone gives to one
        assert len(same) == 1 and same[0] != row and cut.weight[same[0]] > 0
        givers.add(same[0])
    assert len(givers) == 6


def test_the_donor_changes_with_the_step_and_stays_with_the_items():
    m = TestGMML.method(noise=0, other=1).double()
    once, again = (m.on_batch(TestGMML.batch(), CTX).seen["x"].patches for _ in range(2))
    later = m.on_batch(TestGMML.batch(), replace(CTX, step=CTX.step + 1)).seen["x"].patches
    assert torch.equal(once, again) and not torch.equal(once, later)


def test_alone_an_item_gets_zeros_and_never_itself():
    batch = TestGMML.batch()
    batch = replace(batch, weight=torch.zeros(8).index_fill(0, torch.tensor([5]), 1.0))
    cut = TestGMML.method(noise=0, other=1).double().on_batch(batch, CTX)
    assert (cut.seen["x"].patches[hidden_of(cut)] == 0).all()


def silenced(m, value):
    torch.nn.init.zeros_(m.heads["x"].layers[-1].weight)
    torch.nn.init.constant_(m.heads["x"].layers[-1].bias, value)
    return m


def test_a_constant_offset_costs_its_size():
    # every true patch is 1.5 and every prediction 1.2: |0.3|, whatever the encoder does
    m, cut = given()
    t = cut.tokens["x"]
    cut = replace(cut, tokens={"x": replace(t, patches=torch.where(t.elements, 1.5, 0))})
    loss = silenced(m, 1.2).step(cut, CTX)["loss"]
    torch.testing.assert_close(loss, torch.tensor(0.3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_what_is_not_corrupted_gets_no_gradient():
    m, cut = given()
    seen = []
    m.encoder.transformer.register_forward_hook(lambda module, args, out: (out.retain_grad(), seen.append(out))[0])
    m.step(cut, CTX)["loss"].backward()
    hidden, got = hidden_of(cut), seen[0].grad.abs().sum(-1)
    assert (got[~hidden] == 0).all()
    assert (got[hidden & (cut.weight > 0)[:, None]] > 0).all() and (got[cut.weight == 0] == 0).all()


def test_it_learns():
    # stripes of a random phase, so that what is hidden follows from what is seen; their mean |sin| = 2 / pi is what a
    # guess of zeros costs
    m = TestGMML.method(noise=0, zeros=1, other=0)
    losses = descent(m, stripes(), 150)
    assert sum(losses[-10:]) / 10 < 0.8 * 2 / math.pi < losses[0]


def test_what_does_not_fit_is_refused():
    specs = TestGMML.method().specs
    with pytest.raises(RequestError, match="method gmml: needs a token encoder, got ConvNet"):
        GMML(ConvNet(specs, ConvNet.Options()), specs, GMML.Options())
    both = {"events": EVENTS}
    encoder = TokenEncoder(both, TokenEncoder.Options(width=16, depth=1, heads=2))
    with pytest.raises(RequestError, match=r"'events' has no grid.*method.other: 0"):
        GMML(encoder, both, GMML.Options())
    GMML(encoder, both, GMML.Options(other=0))
    with pytest.raises(ValueError, match="one of noise, zeros and other"):
        GMML.Options(noise=0, other=0)
