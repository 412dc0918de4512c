"""ARM: no cluster tells of itself or a later one, closed forms of its loss, and the contract in one and two dimensions."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.arm import ARM
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.learning import descent, stripes
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.tokens.clusters import before, cluster_order

DECODER = {"width": 16, "depth": 2, "heads": 2}
TOKENS = {"width": 16, "depth": 2, "heads": 2}
SPEC = InputSpec(channels=("a", "b"), units=("", ""), axes=("height", "width"), unit="mm", spacing=(1.0, 2.0))


class TestARM(MethodContract):
    name = "arm"
    encoder = ("tokens", TOKENS | {"patch": (4, 4), "causal": (2, 2)})
    options = {"decoder": DECODER}
    shape = (16, 16)


class TestARMSignal(MethodContract):
    name = "arm"
    encoder = ("tokens", TOKENS | {"patch": (4,), "causal": (2,), "cls": True, "positions": "rope"})
    options = {"decoder": DECODER, "norm_target": False}


def method(size=4, cluster=2, **options):
    torch.manual_seed(0)
    encoder = TokenEncoder({"x": SPEC}, TokenEncoder.Options(**TOKENS, patch=(size, size), causal=(cluster, cluster)))
    return ARM(encoder, {"x": SPEC}, ARM.Options(**({"decoder": DECODER} | options))).double()


def batch_of(x, whole=False):
    ids = torch.arange(len(x))
    spacing = torch.tensor([[1.0, 2.0]], dtype=torch.float64).expand(len(x), -1)
    valid = torch.ones(len(x), 1, *x.shape[2:], dtype=torch.bool)
    return Batch({"x": Dense(x, valid, spacing, whole=whole)}, ids, ids, ids, torch.ones(len(x)), {})


def images(b=3, size=16):
    return torch.randn(b, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# clusters of 2 x 2 on a grid of 4 x 4, in raster order of the tokens
CLUSTER = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3])


def test_nine_clusters_of_sixteen():
    # the paper's 12 x 12 patches: clusters of 4 x 4, of which the c-th sees 16 c tokens: 16 * 16 * (0 + 1 + ... + 8)
    at = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij"), -1).reshape(1, 144, 2)
    order = cluster_order(at, (4, 4))
    assert order.unique().numel() == 9
    sees = before(order, torch.ones(1, 144, dtype=torch.bool))
    assert sees.sum() == 256 * 36 and sees.any(-1).sum() == 128
    # what is not valid is not seen
    valid = torch.arange(144)[None] != 0
    assert before(order, valid).sum() == 256 * 36 - 128


def test_a_prediction_knows_earlier_clusters_only():
    m = method()
    cut = m.on_batch(batch_of(images()), CTX)
    found = []
    m.decoder.register_forward_hook(lambda module, args, out: found.append(out))
    for cluster in range(4):
        patches = cut.tokens.patches.clone().requires_grad_()
        m.step(replace(cut, tokens=replace(cut.tokens, patches=patches)), CTX)
        found[-1][:, cluster == CLUSTER].square().sum().backward()
        slope = torch.zeros(3, 16) if patches.grad is None else patches.grad.abs().sum(-1)
        assert torch.equal(slope > 0, (cluster > CLUSTER).expand(3, -1))


def test_later_pixels_change_the_loss_as_targets_only():
    # the last cluster is no input of any prediction: with raw targets the slope of the loss there is 2 (x - pred) / n, as
    # the mean of squares over the n = 12 * 32 elements of 3 clusters has it
    m = method(norm_target=False)
    cut = m.on_batch(batch_of(images(1)), CTX)
    found = []
    m.decoder.register_forward_hook(lambda module, args, out: found.append(out.detach()))
    patches = cut.tokens.patches.clone().requires_grad_()
    m.step(replace(cut, tokens=replace(cut.tokens, patches=patches)), CTX)["loss"].backward()
    wanted = 2 * (patches.detach() - found[0]) / (12 * 32)
    torch.testing.assert_close(patches.grad[:, CLUSTER == 3], wanted[:, CLUSTER == 3], rtol=1e-9, atol=1e-15)


def test_features_know_their_own_cluster():
    m = method()
    cut = m.on_batch(batch_of(images(1)), CTX)
    patches = cut.tokens.patches.clone().requires_grad_()
    tokens = m.encoder.encode({"x": replace(cut.tokens, patches=patches)}).tokens
    tokens[:, 2].square().sum().backward()  # a token of cluster 1
    assert torch.equal(patches.grad.abs().sum(-1)[0] > 0, CLUSTER <= 1)


def silenced(m, value):
    """The method with its decoder's last layer cut off: it predicts `value` everywhere."""
    torch.nn.init.zeros_(m.decoder.head.weight)
    torch.nn.init.constant_(m.decoder.head.bias, value)
    return m


def test_perfect_prediction_costs_nothing():
    m = silenced(method(norm_target=False), 0.5)
    x = torch.full((3, 2, 16, 16), 0.5, dtype=torch.float64)
    assert m.step(m.on_batch(batch_of(x), CTX), CTX)["loss"] == 0


@pytest.mark.parametrize("whole", [False, True])
def test_constant_images_cost_the_squared_prediction(whole):
    # the normalised target of a constant patch is 0; the first cluster is not predicted
    m = method()
    cut = m.on_batch(batch_of(torch.full((3, 2, 16, 16), 0.5, dtype=torch.float64), whole), CTX)
    found = []
    m.decoder.register_forward_hook(lambda module, args, out: found.append(out.detach()))
    loss = m.step(cut, CTX)["loss"].detach()
    torch.testing.assert_close(loss, found[0][:, CLUSTER > 0].square().mean(), rtol=0, atol=1e-12)


def test_zero_prediction_costs_31_32ths():
    # (P - 1) / P with P = 4 * 4 * 2 elements, as the target's variance is unbiased; eps takes 1e-6 / var, var above 0.1
    m = silenced(method(), 0.0)
    assert math.isclose(m.step(m.on_batch(batch_of(images()), CTX), CTX)["loss"].item(), 31 / 32, abs_tol=1e-5)


def test_the_first_valid_cluster_is_not_predicted():
    # the upper half is not there, so that the third cluster is the first one and only the fourth has something before it
    m = method(norm_target=False)
    batch = batch_of(images(1))
    valid = batch.inputs["x"].valid.clone()
    valid[:, :, :8] = False
    cut = m.on_batch(batch.with_inputs(x=replace(batch.inputs["x"], valid=valid)), CTX)
    found = []
    m.decoder.register_forward_hook(lambda module, args, out: found.append(out.detach()))
    loss = m.step(cut, CTX)["loss"].detach()
    wanted = (found[0] - cut.tokens.patches)[:, CLUSTER == 3].square().mean()
    torch.testing.assert_close(loss, wanted, rtol=1e-12, atol=0)


def test_it_learns():
    # stripes along the height of a random phase: what comes next follows from what was seen
    m = method(decoder=DECODER | {"width": 32}).float()
    losses = descent(m, batch_of(stripes().inputs["x"].values), 80, redraw=False)
    assert losses[-1] < 0.3 * 31 / 32


def test_bfloat16_agrees_with_single():
    # bfloat16 has 8 bits; the loss itself is fp32
    m = method().float()
    cut = m.on_batch(batch_of(images().float()), CTX)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = m.step(cut, CTX)["loss"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, m.step(cut, CTX)["loss"], rtol=0.01, atol=0)


def test_encoders_it_cannot_use_are_refused():
    specs = {"x": SPEC}
    with pytest.raises(RequestError, match="method arm: needs a token encoder, got ConvNet"):
        ARM(ConvNet(specs, ConvNet.Options()), specs, ARM.Options())
    plain = TokenEncoder(specs, TokenEncoder.Options(**TOKENS, patch=(4, 4)))
    with pytest.raises(
        RequestError, match=r"method arm: needs a causal encoder; set encoder.causal .* such as \[4, 4\]"
    ):
        ARM(plain, specs, ARM.Options())
    with pytest.raises(RequestError, match=r"encoder.causal: a cluster of \[4, 4\] holds all \[4, 4\] patches of 'x'"):
        method(cluster=4).on_batch(batch_of(images()), CTX)
