"""SparK: its masks and targets, and the contract in one, two and three dimensions."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.base import Context
from unlabeled.core.methods.spark import SparK, visible
from unlabeled.core.nn.backbone import TimmBackbone
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.maps import Map
from unlabeled.core.nn.unet_decoder import UNetDecoder
from unlabeled.core.testing.learning import descent, stripes
from unlabeled.core.testing.method import MethodContract

CTX = Context(seed=0, step=3, epoch=1, max_steps=10)
SPEC = InputSpec(channels=("a", "b"), units=("", ""), axes=("height", "width"), unit="px", spacing=(1.0, 1.0))
NET = {"channels": (6, 8), "kernels": (5, 3), "strides": (2, 2)}


class TestSparK(MethodContract):
    name = "spark"
    encoder = ("convnet", NET)
    options = {"decoder": {"width": 8}}


class TestSparKVolume(MethodContract):
    name = "spark"
    encoder = ("convnet", {"channels": (6, 8), "kernels": (3, 3), "strides": (2, 1)})
    options = {"decoder": {"width": 8}, "norm_target": False}
    shape = (4, 6, 8)


class TestSparKTimm(MethodContract):
    name = "spark"
    encoder = ("timm", {"model": "test_byobnet", "stages": 3})
    options = {"decoder": {"width": 8}, "resolutions": 2}
    shape = (16, 32)


def encoder_of(kind):
    if kind == "timm":
        return TimmBackbone({"x": SPEC}, TimmBackbone.Options(model="test_byobnet", stages=3))
    return ConvNet({"x": SPEC}, ConvNet.Options(channels=(6, 8, 8), kernels=(5, 3, 3), strides=(2, 2, 2)))


def method(kind="convnet", **options):
    torch.manual_seed(0)
    return SparK(encoder_of(kind), {"x": SPEC}, SparK.Options(**({"decoder": {"width": 8}} | options))).double()


def batch_of(images, valid=None, weight=None):
    b = len(images)
    if valid is None:
        valid = torch.ones(b, 1, *images.shape[2:], dtype=torch.bool)
    ids = torch.arange(b)
    spacing = torch.ones(b, 2, dtype=torch.float64)
    return Batch({"x": Dense(images, valid, spacing)}, ids, ids, ids, torch.ones(b) if weight is None else weight, {})


def images(b=4, height=40, width=40):
    return torch.randn(b, 2, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_round_counts_the_visible_patches():
    # round(n * 0.4) of n valid patches: 10 of 25, 20 of 49 (19.6), 3 of 7 (2.8), 1 of 2, 1 of 1, 0 of 0
    valid = torch.arange(49) < torch.tensor([25, 49, 7, 2, 1, 0])[:, None]
    seen = visible(valid, 0.6, torch.rand(6, 49))
    assert seen.sum(1).tolist() == [10, 20, 3, 1, 1, 0]
    assert not (seen & ~valid).any()
    # one is hidden at least, however low the ratio
    assert visible(valid, 0.01, torch.rand(6, 49)).sum(1).tolist() == [24, 48, 6, 1, 1, 0]


def test_masks_follow_the_grid_the_item_and_the_epoch():
    m = method()
    cut = m.on_batch(batch_of(images()), CTX)
    # 40 / 8 = 5 sites along each axis, 10 of 25 seen, each with all its 64 cells
    assert cut.hidden.shape == (4, 25) and cut.hidden.sum(1).tolist() == [15] * 4
    assert cut.active.sum((1, 2)).tolist() == [640] * 4
    blocks = cut.active.reshape(4, 5, 8, 5, 8)
    assert torch.equal(blocks.any(4).any(2), blocks.all(4).all(2))
    assert torch.equal(m.on_batch(batch_of(images()), replace(CTX, step=9)).active, cut.active)
    assert not torch.equal(m.on_batch(batch_of(images()), replace(CTX, epoch=2)).active, cut.active)


@pytest.mark.parametrize("kind", ["convnet", "timm"])
def test_hidden_cells_reach_the_loss_as_targets_only(kind):
    m = method(kind, norm_target=False)
    x = images()
    cut = m.on_batch(batch_of(x), CTX)
    preds = []
    m.decoder.register_forward_hook(lambda module, args, out: preds.append(out.detach()))
    plain = m.step(cut, CTX)
    spoiled = replace(cut.x, values=torch.where(cut.active.unsqueeze(1), x, x + 1e6))
    other = m.step(replace(cut, x=spoiled), CTX)
    assert torch.equal(preds[0], preds[1]) and torch.equal(plain["embedding"], other["embedding"])
    # prediction 0 would cost 1e12; what is predicted is of the order of 1
    assert math.isclose(other["loss"].item(), 1e12, rel_tol=1e-4)
    # the loss is the mean over hidden cells
    wanted = (preds[0] - x).square().masked_select(~cut.active.unsqueeze(1)).mean()
    torch.testing.assert_close(plain["loss"].detach(), wanted, rtol=1e-12, atol=0)


def silenced(m, value):
    """The method with its decoder's last layer cut off: it predicts `value` everywhere."""
    torch.nn.init.zeros_(m.decoder.head.weight)
    torch.nn.init.constant_(m.decoder.head.bias, value)
    return m


def test_zero_prediction_costs_127_128ths():
    # (P - 1) / P with P = 8 * 8 * 2 elements, as the target's variance is unbiased; eps takes 1e-6 / var, var above 0.1
    m = silenced(method(), 0.0)
    loss = m.step(m.on_batch(batch_of(images()), CTX), CTX)["loss"].item()
    assert math.isclose(loss, 127 / 128, abs_tol=1e-5)


def test_constant_images_cost_the_squared_prediction():
    # the normalised target of a constant patch is 0, the raw one the constant itself
    x = torch.full((4, 2, 40, 40), 0.5, dtype=torch.float64)
    for norm_target, wanted in ((True, 0.25), (False, 0.0)):
        m = silenced(method(norm_target=norm_target), 0.5)
        assert m.step(m.on_batch(batch_of(x), CTX), CTX)["loss"].item() == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize("kind", ["convnet", "timm"])
def test_an_image_alone_has_the_loss_it_has_in_a_padded_batch(kind):
    # one item of 37 x 32 cells, and the same one in a batch of 40 x 48 beside rows of weight 0: all cells that are not
    # there hold NaN. The draws are by patch, so the mask is given by hand.
    x, found = images(1, 37, 32), []
    for shape, rows in (((37, 32), 1), ((40, 48), 3)):
        values, valid = (
            torch.full((rows, 2, *shape), torch.nan, dtype=torch.float64),
            torch.zeros(rows, 1, *shape, dtype=torch.bool),
        )
        values[:1, :, :37, :32], valid[:1, :, :37, :32] = x, True
        # a row that can be read and still has no weight: padding of the last batch
        values[2:], valid[2:] = 7.0, True
        weight = torch.tensor([1.0, 0, 0][:rows])
        m = method(kind)
        cut = m.on_batch(batch_of(values, valid, weight), CTX)
        hidden = torch.zeros(rows, 5, shape[1] // 8, dtype=torch.bool)
        hidden[0, :, :4] = torch.rand(5, 4, generator=torch.Generator().manual_seed(5)) < 0.6
        seen = torch.zeros_like(hidden)
        seen[0, :, :4] = ~hidden[0, :, :4]
        active = seen.repeat_interleave(8, 1).repeat_interleave(8, 2)
        out = m.step(replace(cut, hidden=hidden.flatten(1), active=active), CTX)
        out["loss"].backward()
        found.append(
            [
                out["loss"].detach(),
                *(p.grad for p in m.parameters()),
                *(b for n, b in m.named_buffers() if "running" in n),
            ]
        )
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_the_decoder_reads_the_last_map_of_each_resolution():
    torch.manual_seed(0)
    net = ConvNet({"x": SPEC}, ConvNet.Options(channels=(4, 5, 6, 7), kernels=(3,) * 4, strides=(2, 1, 2, 2)))
    assert SparK(net, {"x": SPEC}, SparK.Options()).strides == [(2, 2), (4, 4), (8, 8)]
    m = SparK(net, {"x": SPEC}, SparK.Options(resolutions=2, decoder=UNetDecoder.Options(width=32)))
    assert m.strides == [(4, 4), (8, 8)]
    # 7 channels at stride 8 and 6 at stride 4, 1x1 at the coarsest and 3x3 after it; 32 channels, then 16, then 8
    assert [tuple(d.project.weight.shape) for d in m.decoder.densify] == [(32, 7, 1, 1), (16, 6, 3, 3)]
    assert [tuple(u.up.weight.shape) for u in m.decoder.ups] == [(32, 32, 2, 2), (16, 16, 4, 4)]
    assert m.decoder.head.weight.shape == (2, 8, 1, 1)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_the_decoder_fills_what_the_encoder_did_not_see_and_predicts_nothing_where_nothing_is(d):
    # anisotropic strides: 2, 4, ... along the last axis alone
    torch.manual_seed(0)
    strides = [(1,) * (d - 1) + (2,), (2,) * d]
    decoder = UNetDecoder([3, 5], strides, 2, UNetDecoder.Options(width=8)).double()
    shape = (4, 6, 8)[-d:]
    sites = torch.ones(2, *shape, dtype=torch.bool)
    sites[0, ..., 4:] = False
    maps = []
    for channels, stride in zip((3, 5), strides, strict=True):
        size = tuple(s // t for s, t in zip(shape, stride, strict=True))
        maps.append(Map(torch.zeros(2, channels, *size).double(), torch.zeros(2, *size, dtype=torch.bool), stride))
    out = decoder(maps, sites)
    assert out.shape == (2, 2, *shape) and (out[0, ..., 4:] == 0).all() and (out[1] != 0).any()
    # nothing was seen, so the prediction comes from the tokens alone: those of every map get a gradient
    out.square().sum().backward()
    assert all((layer.mask_token.grad != 0).any() for layer in decoder.densify)


def test_it_learns():
    # stripes of a random phase: what is hidden follows from what is seen, so the loss falls well below 31/32
    torch.manual_seed(0)
    net = ConvNet({"x": SPEC}, ConvNet.Options(channels=(16, 16), kernels=(5, 5), strides=(2, 2)))
    m = SparK(net, {"x": SPEC}, SparK.Options(mask_ratio=0.4, decoder=UNetDecoder.Options(width=32)))
    losses = descent(m, stripes(), 60, ctx=CTX)
    assert losses[-1] < 0.5 * 31 / 32


def test_bfloat16_agrees_with_single():
    # bfloat16 has 8 bits; the loss itself is fp32
    m = method().float()
    cut = m.on_batch(batch_of(images().float()), CTX)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = m.step(cut, CTX)["loss"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, m.step(cut, CTX)["loss"], rtol=0.02, atol=0)


def test_an_encoder_without_maps_is_refused():
    encoder = TokenEncoder({"x": SPEC}, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(4, 4)))
    with pytest.raises(RequestError, match="method spark: needs a convolutional encoder, got TokenEncoder; set"):
        SparK(encoder, {"x": SPEC}, SparK.Options())
