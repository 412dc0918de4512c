"""The ConvNet: padding is invisible."""

import pytest
import torch
from pydantic import ValidationError

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.nn.convnet import ConvNet

SMALL = {"channels": (4, 6), "kernels": (5, 3), "strides": (2, 2)}


def spec(d, channels=2):
    return InputSpec(channels=("a", "b", "c")[:channels], units=("",) * channels, axes=("z", "y", "x")[-d:], unit="mm")


def net(d, **options):
    torch.manual_seed(0)
    return ConvNet({"x": spec(d)}, ConvNet.Options(**(SMALL | options)))


def dense(values, valid=None):
    if valid is None:
        valid = torch.ones(len(values), 1, *values.shape[2:], dtype=torch.bool)
    return {"x": Dense(values, valid, torch.ones(len(values), values.ndim - 2))}


def test_prototype_sizes():
    # 6 channels, 100 steps: strides 2, 2, 2, 1 leave ceil(100 / 8) = 13 positions; mean and max of 128 channels
    channels = tuple(f"c{i}" for i in range(6))
    enc = ConvNet({"x": InputSpec(channels=channels, units=("",) * 6)}, ConvNet.Options())
    out = enc(dense(torch.randn(2, 6, 100)))
    assert out.tokens.shape == (2, 13, 128)
    assert out.pooled.shape == (2, enc.width) == (2, 256)
    assert enc.stride == (8,)
    # weights 6*32*9 + 32*64*7 + 64*128*5 + 128*128*3, and scale and shift of 32 + 64 + 128 + 128 norms
    assert sum(p.numel() for p in enc.parameters()) == 1728 + 14336 + 40960 + 49152 + 2 * 352


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("shape", [(11,), (7, 9), (5, 6, 7)])
def test_a_sample_alone_equals_itself_in_a_padded_batch(shape, norm):
    enc = net(len(shape), norm=norm)
    enc(dense(torch.randn(4, 2, *shape)))  # moves the running statistics
    enc.eval()
    x = torch.randn(1, 2, *shape)
    bigger = tuple(s + 6 for s in shape)
    inside = (slice(1), slice(None), *(slice(s) for s in shape))
    values = torch.randn(3, 2, *bigger)
    valid = torch.ones(3, 1, *bigger, dtype=torch.bool)
    values[0], valid[0] = torch.nan, False
    values[inside], valid[inside] = x, True
    alone, padded = enc(dense(x)), enc(dense(values, valid))
    torch.testing.assert_close(padded.pooled[:1], alone.pooled, rtol=0, atol=1e-5)
    torch.testing.assert_close(padded.tokens[0][padded.valid[0]], alone.tokens[0], rtol=0, atol=1e-5)


def test_padding_changes_no_statistics_in_training():
    # the same 2 samples, with and without 5 invalid steps and a third row that failed to load
    x = torch.randn(2, 2, 11)
    values, valid = torch.zeros(3, 2, 16), torch.zeros(3, 1, 16, dtype=torch.bool)
    values[:2, :, :11], valid[:2, :, :11] = x, True
    plain, padded = net(1), net(1)
    a, b = plain(dense(x)), padded(dense(values, valid))
    torch.testing.assert_close(b.pooled[:2], a.pooled, rtol=0, atol=1e-5)
    assert (b.pooled[2] == 0).all()
    for p, q in zip(plain.buffers(), padded.buffers(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-6)


def test_an_invalid_channel_is_zero():
    enc = net(1).eval()
    x = torch.randn(1, 2, 12)
    valid = torch.tensor([True, False])[None, :, None].expand(1, 2, 12)
    zeroed = x.clone()
    zeroed[:, 1] = 0
    assert torch.equal(enc(dense(x, valid)).pooled, enc(dense(zeroed)).pooled)


def test_what_does_not_fit_is_refused():
    with pytest.raises(RequestError, match="one dense input of 1 to 3 axes, got x, y"):
        ConvNet({"x": spec(1), "y": spec(1)}, ConvNet.Options())
    with pytest.raises(ValidationError, match="kernels must be odd"):
        ConvNet.Options(kernels=(8, 7, 5, 3))
    with pytest.raises(ValidationError, match="equally many numbers"):
        ConvNet.Options(strides=(2, 2))


def test_a_batch_known_to_be_whole_gives_the_same_features() -> None:
    """Leaving the masks out is a matter of speed alone: features and gradients agree to 1e-10 (fp64)."""
    found = []
    for whole in (False, True):
        torch.manual_seed(0)
        spec = InputSpec(channels=("a", "b"), units=("", ""), spacing=(1.0,))
        net = ConvNet({"x": spec}, ConvNet.Options(channels=(4, 6), kernels=(5, 3), strides=(2, 1))).double()
        values = torch.randn(3, 2, 20, dtype=torch.float64)
        x = Dense(values, torch.ones(3, 1, 20, dtype=torch.bool), torch.ones(3, 1), whole)
        (pooled := net({"x": x}).pooled).square().sum().backward()
        found.append([pooled, *(p.grad for p in net.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
