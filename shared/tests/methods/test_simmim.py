"""SimMIM: its contract and oracles."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.methods.simmim import SimMIM
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.events import EVENTS, with_events
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients


class TestSimMIM(MethodContract):
    name = "simmim"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})


class TestSimMIMInBlocks(MethodContract):
    name = "simmim"
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4,), "cls": True})
    options = {"mask": "block", "mask_ratio": 0.5, "norm_target": True}


def given():
    m = TestSimMIM.method().double()
    return m, m.on_batch(TestSimMIM.batch(), CTX)


def test_a_constant_offset_costs_its_size():
    # every hidden patch is c, every prediction c + 0.3: |0.3|, whatever the encoder does
    m, cut = given()
    t = cut.tokens["x"]
    tokens = {"x": replace(t, patches=torch.where(t.elements, 1.5, 0))}
    torch.nn.init.zeros_(m.heads["x"].weight), torch.nn.init.constant_(m.heads["x"].bias, 1.5 - 0.3)
    loss = m.step(replace(cut, tokens=tokens), CTX)["loss"]
    torch.testing.assert_close(loss, torch.tensor(0.3, dtype=torch.float64), rtol=0, atol=1e-12)


def test_only_hidden_patches_are_predicted():
    m, cut = given()
    seen = []
    m.encoder.transformer.register_forward_hook(lambda module, args, out: (out.retain_grad(), seen.append(out))[0])
    m.step(cut, CTX)["loss"].backward()
    hidden = torch.zeros(8, 16, dtype=torch.bool).scatter(1, cut.masks["x"].hide, cut.masks["x"].hide_valid)
    got = seen[0].grad.abs().sum(-1)
    # 16 tokens, int(16 * 0.4) = 6 kept: 10 hidden; rows of weight 0 get none
    assert hidden[0].sum() == 10
    assert (got[~hidden] == 0).all()
    assert (got[hidden & (cut.weight > 0)[:, None]] > 0).all() and (got[cut.weight == 0] == 0).all()


def test_hidden_pixels_reach_the_encoder_by_no_way():
    m, cut = given()
    mask, t = cut.masks["x"], cut.tokens["x"]
    at = mask.hide[..., None].expand(-1, -1, t.patches.shape[-1])
    other = replace(cut, tokens={"x": replace(t, patches=t.patches.scatter(1, at, 7.0))})
    plain, changed = m.step(cut, CTX), m.step(other, CTX)
    assert torch.equal(plain["embedding"], changed["embedding"])
    assert plain["loss"] != changed["loss"]
    # the visible ones do
    at = mask.keep[..., None].expand(-1, -1, t.patches.shape[-1])
    other = replace(cut, tokens={"x": replace(t, patches=t.patches.scatter(1, at, 7.0))})
    assert not torch.equal(plain["embedding"], m.step(other, CTX)["embedding"])


def test_the_token_stands_before_its_position():
    # of two hidden neighbours the tokens are one, and the features still differ
    m, cut = given()
    x, _ = m.encoder.embed(cut.tokens, lambda name, x: m.mask_token.expand_as(x))
    place, _ = m.encoder.embed(cut.tokens, lambda name, x: torch.zeros_like(x))
    torch.testing.assert_close(x - place, m.mask_token.expand_as(x), rtol=0, atol=1e-12)
    assert (place[0, 0] - place[0, 1]).abs().max() > 0.1


def two_inputs():
    return with_events(TestSimMIM.batch(), [9, 5, 0, 2, 1, 0, 3, 4])


def both():
    torch.manual_seed(0)
    specs = {"x": TestSimMIM.method().specs["x"], "events": EVENTS}
    options = TokenEncoder.Options(width=16, depth=1, heads=2, patch={"x": (4, 4)})
    return SimMIM(TokenEncoder(specs, options), specs, SimMIM.Options()).double()


def on_rank():
    return step_and_gradients(both(), share(two_inputs()), CTX)


def test_several_inputs_also_packed_on_two_ranks(two_ranks):
    out = both().step(both().on_batch(two_inputs(), CTX), CTX)
    torch.testing.assert_close(out["loss"], (out["parts"]["l1_x"] + out["parts"]["l1_events"]) / 2)
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)


def test_an_encoder_without_tokens_is_refused():
    specs = TestSimMIM.method().specs
    with pytest.raises(RequestError, match="method simmim: needs a token encoder, got ConvNet"):
        SimMIM(ConvNet(specs, ConvNet.Options()), specs, SimMIM.Options())
