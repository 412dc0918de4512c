"""MAE: its oracles, and two ranks equal one."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.base import Context
from unlabeled.core.methods.mae import MAE
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.predictor import Predictor
from unlabeled.core.testing.events import EVENTS, pack
from unlabeled.core.testing.learning import descent, stripes
from unlabeled.core.testing.method import MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients
from unlabeled.core.testing.sync import NoWaiting

CTX = Context(seed=0, step=3, epoch=1, max_steps=10)
IMAGE = InputSpec(channels=("a", "b"), units=("", ""), axes=("height", "width"), unit="mm", spacing=(1.0, 2.0))
DECODER = {"width": 16, "depth": 1, "heads": 2}


class TestMAE(MethodContract):
    name = "mae"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"decoder": DECODER}


class TestMAEInBlocks(MethodContract):
    name = "mae"
    options = {"decoder": DECODER, "mask": "block", "mask_ratio": 0.5}


def batch_of(images, valid=None, weight=None):
    b = len(images)
    if valid is None:
        valid = torch.ones(b, 1, *images.shape[2:], dtype=torch.bool)
    spacing = torch.tensor([[1.0, 2.0]], dtype=torch.float64).expand(b, -1)
    ids = torch.arange(b)
    return Batch({"x": Dense(images, valid, spacing)}, ids, ids, ids, torch.ones(b) if weight is None else weight, {})


def method(specs=None, views=None, **options):
    torch.manual_seed(0)
    specs = specs or {"x": IMAGE}
    encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=2, heads=2, patch={"x": (4, 4)}))
    options = MAE.Options(**({"decoder": DECODER} | options))
    return (MAE(encoder, specs, options) if views is None else MAE(encoder, specs, options, views)).double()


def images(b=4):
    return torch.randn(b, 2, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("mask", ["random", "block"])
def test_three_quarters_are_hidden(mask):
    cut = method(mask=mask).on_batch(batch_of(images()), CTX)
    # 16 patches: int(16 / 4) = 4 stay, 12 are hidden, and together they are the image
    assert cut.visible["x"].patches.shape == (4, 4, 32)
    assert cut.hidden["x"].patches.shape == (4, 12, 32)
    everything = torch.cat([cut.visible["x"].patches, cut.hidden["x"].patches], 1)
    torch.testing.assert_close(everything.sum((1, 2)), images().sum((1, 2, 3)))


def test_constant_images_cost_the_squared_prediction():
    # the normalised target of a constant patch is 0
    m = method()
    cut = m.on_batch(batch_of(torch.full((4, 2, 16, 16), 0.5, dtype=torch.float64)), CTX)
    pred = []
    m.predictor.register_forward_hook(lambda module, args, out: pred.append(out["x"]))
    torch.testing.assert_close(m.step(cut, CTX)["loss"], pred[0].square().mean(), rtol=0, atol=1e-12)


def silenced(m, value):
    """The method with its predictor's last layer cut off: it predicts `value` everywhere."""
    torch.nn.init.zeros_(m.predictor.heads["x"].weight)
    torch.nn.init.constant_(m.predictor.heads["x"].bias, value)
    return m


def test_perfect_prediction_costs_nothing():
    m = silenced(method(norm_target=False), 0.5)
    cut = m.on_batch(batch_of(torch.full((4, 2, 16, 16), 0.5, dtype=torch.float64)), CTX)
    assert m.step(cut, CTX)["loss"] == 0


def test_zero_prediction_costs_31_32ths():
    # (P - 1) / P with P = 4 * 4 * 2 elements; eps takes 10^-6 / var, and no patch of noise has var below 0.1
    m = silenced(method(), 0.0)
    loss = m.step(m.on_batch(batch_of(images()), CTX), CTX)["loss"].item()
    assert math.isclose(loss, 31 / 32, abs_tol=1e-5)


def test_only_hidden_patches_are_targets():
    m = method()
    cut = m.on_batch(batch_of(images()), CTX)
    plain = m.step(cut, CTX)
    # of the predictor's 16 tokens the 12 hidden ones alone leave it, and the loss reads every one of them
    seen = []
    m.predictor.transformer.register_forward_hook(lambda module, args, out: (out.retain_grad(), seen.append(out))[0])
    m.step(cut, CTX)["loss"].backward()
    assert seen[0].shape[:2] == (4, 12) and (seen[0].grad.abs().sum(-1) > 0).all()
    # and hidden pixels reach the encoder by no way
    other = replace(cut, hidden={"x": replace(cut.hidden["x"], patches=cut.hidden["x"].patches + 1)})
    assert torch.equal(m.step(other, CTX)["embedding"], plain["embedding"])


def test_rows_of_weight_zero_and_invalid_cells_do_not_count():
    x = images()
    valid = torch.ones(4, 1, 16, 16, dtype=torch.bool)
    valid[1, :, 10:] = False
    valid[3] = False
    weight = torch.tensor([1.0, 1, 0, 0])
    m = method()
    plain = m.step(m.on_batch(batch_of(x, valid, weight), CTX), CTX)["loss"]
    spoiled = x.clone()
    spoiled[1, :, 10:] = torch.nan
    spoiled[2] += 7
    spoiled[3] = torch.nan
    out = m.step(m.on_batch(batch_of(spoiled, valid, weight), CTX), CTX)
    torch.testing.assert_close(out["loss"], plain, rtol=0, atol=1e-12)
    out["loss"].backward()
    assert all(p.grad.isfinite().all() for p in m.parameters())


def test_masks_follow_the_item_and_the_epoch():
    m = method()
    once = m.on_batch(batch_of(images()), CTX)
    later = m.on_batch(batch_of(images()), replace(CTX, step=9))
    next_epoch = m.on_batch(batch_of(images()), replace(CTX, epoch=2))
    assert torch.equal(once.hidden["x"].coords, later.hidden["x"].coords)
    assert not torch.equal(once.hidden["x"].coords, next_epoch.hidden["x"].coords)


def test_views_come_before_the_mask():
    def double(batch, draw):
        assert draw.scope == "view"
        return batch.with_inputs(x=replace(batch.inputs["x"], values=2 * batch.inputs["x"].values))

    cut, plain = (method(views=v).on_batch(batch_of(images()), CTX) for v in (double, None))
    assert torch.equal(cut.hidden["x"].patches, 2 * plain.hidden["x"].patches)


def test_it_learns():
    # stripes of a random phase: what is hidden follows from what is seen, so the loss falls well below 31/32
    m = method().float()
    losses = descent(m, batch_of(stripes().inputs["x"].values), 120, ctx=CTX)
    assert losses[-1] < 0.5 * 31 / 32


@pytest.mark.parametrize("mask", ["random", "block"])
def test_a_step_does_not_wait_for_the_device(mask):
    m = method(mask=mask)
    with NoWaiting():
        m.step(m.on_batch(batch_of(images()), CTX), CTX)["loss"].backward()
    with pytest.raises(AssertionError, match="_local_scalar_dense waits"), NoWaiting():
        torch.ones(1).item()


def test_bfloat16_agrees_with_single():
    # bfloat16 has 8 bits, so single numbers differ by 2^-8 and their mean by less than 1 %; the loss itself is fp32
    m = method().float()
    cut = m.on_batch(batch_of(images().float()), CTX)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = m.step(cut, CTX)["loss"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, m.step(cut, CTX)["loss"], rtol=0.01, atol=0)


def test_an_encoder_without_tokens_is_refused():
    with pytest.raises(RequestError, match="method mae: needs a token encoder, got ConvNet"):
        MAE(ConvNet({"x": IMAGE}, ConvNet.Options()), {"x": IMAGE}, MAE.Options())
    assert MAE.Options().decoder == Predictor.Options(width=128, depth=2)


def two_inputs():
    """6 images, some partly invalid, and events of very unequal number; the last row failed to load."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(6, 2, 16, 16, dtype=torch.float64, generator=g)
    valid = torch.ones(6, 1, 16, 16, dtype=torch.bool)
    valid[0, :, :, 5:] = valid[2, :, 9:] = valid[5] = False
    values = torch.randn(17, 1, dtype=torch.float64, generator=g)
    events = pack(values, [9, 5, 0, 2, 1, 0], torch.rand(17, 1, dtype=torch.float64, generator=g))
    batch = batch_of(x, valid, torch.tensor([1.0, 1, 1, 1, 1, 0]))
    return batch.with_inputs(events=events)


def test_several_inputs_are_masked_each_and_weighed_alike():
    m = method({"x": IMAGE, "events": EVENTS}, norm_target=False)
    out = m.step(m.on_batch(two_inputs(), CTX), CTX)
    assert set(out["parts"]) == {"mse_x", "mse_events"}
    torch.testing.assert_close(out["loss"], (out["parts"]["mse_x"] + out["parts"]["mse_events"]) / 2)
    assert out["embedding"].shape == (6, 16)
    assert (out["embedding"][5] == 0).all()


def task(options):
    batch = share(two_inputs())
    return step_and_gradients(method({"x": IMAGE, "events": EVENTS}, **options), batch, CTX)


@pytest.mark.parametrize("options", [{}, {"mask": "block", "norm_target": False, "mask_ratio": 0.6}])
def test_two_ranks_equal_one(two_ranks, options):
    # rank 0 holds 3 of 5 weighted rows and 14 of 17 events
    alone = task(options)
    assert sum(name.startswith("grad") for name in alone) == len(
        list(method({"x": IMAGE, "events": EVENTS}).parameters())
    )
    assert_same(two_ranks.run(f"{__file__}:task", options), alone, tolerance=1e-9)


def test_ids_are_no_pixels():
    ids = InputSpec(channels=("level",), units=("",), axes=("x",), unit="px", spacing=(1.0,))
    encoder = TokenEncoder({"x": ids}, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(1,), vocabulary=(7,)))
    with pytest.raises(RequestError, match=r"method mae: predicts measured values, and the input 'x' holds ids"):
        MAE(encoder, {"x": ids}, MAE.Options())
