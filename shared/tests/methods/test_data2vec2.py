"""data2vec 2.0: its contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.methods.data2vec2 import Data2Vec2
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.targets.features import contextual
from unlabeled.core.testing.events import EVENTS
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients

DECODER = {"width": 16, "depth": 2, "groups": 4}


class TestData2Vec2(MethodContract):
    name = "data2vec2"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"masks": 3, "decoder": DECODER, "teacher": {"momentum": 0.9}}


class TestData2Vec2Volumes(MethodContract):
    name = "data2vec2"
    shape = (8, 8, 8)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (2, 4, 4), "cls": True})
    options = {"masks": 2, "decoder": DECODER, "top": 1}


def given(**options):
    m = TestData2Vec2.method(**options).double()
    return m, m.on_batch(TestData2Vec2.batch(), CTX)


def gradients(m, cut):
    m.zero_grad()
    loss = m.step(cut, CTX)["loss"]
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in m.named_parameters() if p.grad is not None}


def of_mask(cut, m, i):
    """The batch with the i-th of m masks only."""
    return replace(cut, masks={n: mask._each(lambda t: t.unflatten(0, (-1, m))[:, i]) for n, mask in cut.masks.items()})


def test_the_gradient_of_m_masks_is_the_mean_of_their_gradients():
    # every mask hides equally many tokens, so the mean over all is the mean of the means; without noise, whose draws
    # differ from mask to mask
    m, cut = given()
    m._in_places = quiet(m)
    together = gradients(m, cut)
    alone, _ = given(masks=1)
    alone.load_state_dict(m.state_dict())
    alone._in_places = quiet(alone)
    single = [gradients(alone, of_mask(cut, 3, i)) for i in range(3)]
    assert single[0]["loss"] != single[1]["loss"]
    for name, value in together.items():
        torch.testing.assert_close(value, torch.stack([s[name] for s in single]).mean(0), rtol=0, atol=1e-10)


def quiet(m):
    """`_in_places` with zeros in the place of noise."""

    def in_places(seen, mask, stream, grid):
        kept = torch.where(mask.keep_valid[..., None], seen, 0)
        return seen.new_zeros(len(seen), math.prod(grid), 16).scatter(1, mask.keep[..., None].expand_as(seen), kept)

    return in_places


def test_one_mask_by_hand():
    # squared distance of every hidden token of every weighted row, over sqrt(16) = 4
    m, cut = given(masks=1)
    torch.nn.init.zeros_(m.decoders["x"].head.weight), torch.nn.init.constant_(m.decoders["x"].head.bias, 0.5)
    with torch.no_grad():
        whole = m.teacher["encoder"].encode(cut.tokens, layers=True)
        target = contextual(whole.layers, whole.valid)
    mask, costs = cut.masks["x"], []
    for b in range(8):
        for at, real in zip(mask.hide[b], mask.hide_valid[b], strict=True):
            if real and cut.weight[b] > 0:
                costs.append((0.5 - target[b, at]).square().sum() / 4)
    # 16 tokens, int(16 * 0.2) = 3 kept: 13 hidden in 5 rows, int(8 * 0.2) = 1 of 8 kept in the half valid one
    assert len(costs) == 5 * 13 + 7
    torch.testing.assert_close(m.step(cut, CTX)["loss"], torch.stack(costs).mean(), rtol=1e-12, atol=0)


def test_targets_are_the_mlps_of_the_top_blocks():
    m, cut = given()
    heard = []
    for block in m.encoder.transformer.blocks:
        block.mlp.register_forward_hook(lambda module, args, out: heard.append(out))
    whole = m.encoder.encode(cut.tokens, layers=True)
    assert len(whole.layers) == len(heard) == 2
    assert all(torch.equal(a, b) for a, b in zip(whole.layers, heard, strict=True))
    # with or without its layers, an encoder says the same
    assert torch.equal(whole.tokens, m.encoder.encode(cut.tokens).tokens) and m.encoder.encode(cut.tokens).layers == ()
    # with `top: 1` the last block's MLP is all there is; one that adds nothing is a collapsed target: sqrt(1e-6)
    other, cut = given(top=1)
    plain = other.step(cut, CTX)["vitals"]["target_std"]
    with torch.no_grad():
        for p in other.teacher["encoder"].transformer.blocks[1].mlp.fc2.parameters():
            p.zero_()
    assert plain > 0.5
    assert other.step(cut, CTX)["vitals"]["target_std"].item() == pytest.approx(1e-3, rel=1e-6)


def test_the_class_token_is_no_target():
    m = TestData2Vec2Volumes.method().double()
    cut = m.on_batch(TestData2Vec2Volumes.batch(), CTX)
    whole = m.encoder.encode(cut.tokens, layers=True)
    assert all(x.shape == whole.tokens.shape == (8, 16, 16) for x in whole.layers)


def test_hidden_places_hold_noise_and_kept_ones_features():
    m, cut = given()
    mask = cut.masks["x"]
    seen = torch.randn(*mask.keep.shape, 16, dtype=torch.float64) + 10
    filled = m._in_places(seen, mask, 5, (4, 4))
    hidden = torch.ones(24, 16, dtype=torch.bool).scatter(1, mask.keep, ~mask.keep_valid)
    kept = filled.gather(1, mask.keep[..., None].expand_as(seen))
    assert torch.equal(kept[mask.keep_valid], seen[mask.keep_valid])
    # three masks of 16 places and 16 channels: 768 numbers at most, so their deviation is 0.01 up to 5 / sqrt(2 * 600)
    noise = filled[hidden]
    assert 0.0085 < noise.std() < 0.0115 and noise.abs().max() < 0.06
    assert torch.equal(filled, m._in_places(seen, mask, 5, (4, 4)))
    assert not torch.equal(filled, m._in_places(seen, mask, 6, (4, 4)))


def test_hidden_pixels_reach_the_student_by_no_way():
    m, cut = given(masks=1)
    t, mask = cut.tokens["x"], cut.masks["x"]
    at = mask.hide[..., None].expand(-1, -1, t.patches.shape[-1])
    other = replace(t, patches=t.patches.scatter(1, at, 5.0))
    assert torch.equal(m._kept(t, mask).patches, m._kept(other, mask).patches)
    at = mask.keep[..., None].expand(-1, -1, t.patches.shape[-1])
    other = replace(t, patches=t.patches.scatter(1, at, 5.0))
    assert not torch.equal(m._kept(t, mask).patches, m._kept(other, mask).patches)


def test_masks_of_an_item_differ_and_share_one_teacher_pass():
    m, cut = given()
    keep = cut.masks["x"].keep.sort(1).values.unflatten(0, (8, 3))
    assert not torch.equal(keep[0, 0], keep[0, 1]) and not torch.equal(keep[0, 0], keep[3, 0])
    passes = []
    m.teacher["encoder"].transformer.register_forward_hook(lambda module, args, out: passes.append(len(out)))
    m.encoder.transformer.register_forward_hook(lambda module, args, out: passes.append(len(out)))
    m.step(cut, CTX)
    assert passes == [8, 24]


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_1_freezes_the_teacher_and_0_makes_it_the_student(momentum):
    m, cut = given(teacher={"momentum": momentum, "final_momentum": momentum})
    before = {k: v.clone() for k, v in m.teacher.state_dict().items()}
    m.step(cut, CTX)["loss"].backward()
    assert all(p.grad is None for p in m.teacher.parameters())
    with torch.no_grad():
        for p in m.encoder.parameters():
            if p.grad is not None:
                p.sub_(0.1 * p.grad)
    m.after_step(CTX)
    expected = before if momentum else {f"parts.encoder.{k}": v for k, v in m.encoder.state_dict().items()}
    torch.testing.assert_close(dict(m.teacher.state_dict()), expected, rtol=0, atol=1e-15)
    assert (m.step(cut, CTX)["vitals"]["teacher_gap"] > 0) == bool(momentum)
    assert m.exported is m.encoder


def test_it_learns():
    m = TestData2Vec2.method(teacher={"momentum": 1.0}).float()  # targets stand still
    batch = TestData2Vec2.batch()
    x = batch.inputs["x"]
    batch = batch.with_inputs(x=replace(x, values=x.values.float(), spacing=x.spacing.float()))
    losses = descent(m, batch, 40)
    # the mean of a layer-normed target over channels costs 16 * 1 / 4 = 4
    assert 3 < losses[0] < 8 and sum(losses[-5:]) < 0.75 * sum(losses[:5])


def two_inputs():
    g = torch.Generator().manual_seed(2)
    beat = torch.randn(8, 1, 20, dtype=torch.float64, generator=g)
    spacing = torch.full((8, 1), 0.5, dtype=torch.float64)
    return TestData2Vec2.batch().with_inputs(beat=Dense(beat, torch.ones(8, 1, 20, dtype=torch.bool), spacing))


def both():
    torch.manual_seed(0)
    beat = InputSpec(channels=("a",), units=("",), axes=("time",), unit="s", spacing=(0.5,))
    specs = {"x": TestData2Vec2.method().specs["x"], "beat": beat}
    options = TokenEncoder.Options(width=16, depth=1, heads=2, patch={"x": (4, 4), "beat": (2,)})
    return Data2Vec2(TokenEncoder(specs, options), specs, Data2Vec2.Options(masks=2, decoder=DECODER)).double()


def on_rank():
    return step_and_gradients(both(), share(two_inputs()), CTX)


def test_several_inputs_of_different_rank_on_two_ranks(two_ranks):
    out = both().step(both().on_batch(two_inputs(), CTX), CTX)
    torch.testing.assert_close(out["loss"], (out["parts"]["mse_x"] + out["parts"]["mse_beat"]) / 2)
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)


def test_what_does_not_fit_is_refused():
    specs = TestData2Vec2.method().specs
    with pytest.raises(RequestError, match="method data2vec2: needs a token encoder, got ConvNet"):
        Data2Vec2(ConvNet(specs, ConvNet.Options()), specs, Data2Vec2.Options())
    packed = TokenEncoder({"events": EVENTS}, TokenEncoder.Options(width=16, heads=2))
    with pytest.raises(RequestError, match="the input 'events' has no grid to convolve over; use ijepa or mae"):
        Data2Vec2(packed, packed.specs, Data2Vec2.Options())
    with pytest.raises(RequestError, match=r"method\.top is 3 but the encoder has 2 blocks"):
        TestData2Vec2.method(top=3)
    with pytest.raises(RequestError, match="mask_length must be odd"):
        validated(Data2Vec2.Options, {"mask_length": 2}, "method")
