"""The U-Net: a token for every cell, what is not valid is invisible, and options that do not fit."""

import pytest
import torch
import torch.nn.functional as F

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.nn.unet import UNet
from unlabeled.core.nn.unet_decoder import UNetDecoder
from unlabeled.core.testing.bundles import shaken

CONVNET = {"name": "convnet", "channels": [4, 6, 6], "kernels": [3, 3, 3], "strides": [2, 1, 2]}
TIMM = {"name": "timm", "model": "resnet18", "stages": 2}


def made(rank=2, encoder=CONVNET, width=16):
    spec = InputSpec(
        channels=("a", "b"), units=("", ""), axes=("z", "y", "x")[-rank:], unit="px", spacing=(1.0,) * rank
    )
    torch.manual_seed(0)
    options = {"encoder": encoder, "decoder": {"width": width}}
    return shaken(UNet({"x": spec}, UNet.Options(**options))).double()


def dense(x, valid=None):
    whole = valid is None
    valid = torch.ones_like(x[:, :1], dtype=torch.bool) if whole else valid
    return {"x": Dense(x, valid, torch.ones(len(x), x.ndim - 2), whole=whole)}


def noise(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(
    ("rank", "shape", "encoder"),
    [(1, (22,), CONVNET), (2, (9, 12), CONVNET), (3, (8, 6, 5), CONVNET), (2, (9, 12), TIMM)],
)
@torch.no_grad()
def test_a_token_for_every_cell_and_the_pooled_features_of_the_inner_encoder(rank, shape, encoder):
    # 22, 9 and 5 cells are no multiple of 4: what is padded is cut off again
    net = made(rank, encoder)
    x = noise(2, 2, *shape)
    found = net(dense(x))
    assert net.stride == (1,) * rank and net.coarsest == (4,) * rank
    # two resolutions: 16 channels at the coarsest, 8 and never fewer after it
    assert net.token_width == 8 and found.tokens.shape == (2, x[0, 0].numel(), 8)
    assert found.valid.all() and found.whole and found.tokens.std() > 0
    assert found.pooled.shape == (2, net.width)
    if not any(n % 4 for n in shape):
        torch.testing.assert_close(found.pooled, net.encoder(dense(x)).pooled)


@torch.no_grad()
def test_tokens_lie_in_raster_order():
    # a change at one cell is felt around that cell
    net, x = made(), noise(1, 2, 32, 48)
    plain = net(dense(x)).tokens
    x[0, :, 17, 30] += 3.0
    moved = (net(dense(x)).tokens - plain).abs().sum(-1)[0].reshape(32, 48)
    rows, columns = (moved > 0).nonzero().float().mean(0).tolist()
    assert abs(rows - 17) < 4 and abs(columns - 30) < 4 and moved[17, 30] > 0 and moved[:, 0].max() == 0


@pytest.mark.parametrize("encoder", [CONVNET, TIMM])
def test_padding_and_what_is_invalid_are_invisible(encoder):
    # one item of 12 x 8 cells, and the same one in a grid of 20 x 16 beside one of which nothing is valid, in training too
    x, found = noise(1, 2, 12, 8), []
    for rows, height, width in ((1, 12, 8), (2, 20, 16)):
        valid = F.pad(torch.ones(1, 1, 12, 8, dtype=torch.bool), [0, width - 8, 0, height - 12])
        valid = torch.cat([valid, torch.zeros(rows - 1, *valid.shape[1:], dtype=torch.bool)])
        values = torch.full((rows, 2, height, width), torch.nan, dtype=torch.float64)
        values[:1, :, :12, :8] = x
        net = made(2, encoder).train()
        out = net(dense(values, valid))
        tokens = out.tokens.unflatten(1, (height, width))
        assert (tokens[out.valid.unflatten(1, (height, width)) == 0] == 0).all()
        (tokens[0, :12, :8] ** 2).mean().backward()
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        found.append([tokens[0, :12, :8], out.pooled[0], *(b for _, b in net.named_buffers()), *gradients])
    assert len(found[0]) == len(found[1])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_every_parameter_gets_a_gradient_where_items_have_holes():
    # the mask tokens stand where a coarse site has cells and the convnet's kernel had its middle on none
    net, x = made(), noise(2, 2, 16, 16)
    valid = torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(1)) < 0.7
    net(dense(x, valid)).tokens.square().sum().backward()
    assert all((p.grad is not None) and (p.grad != 0).any() for p in net.decoder.parameters())
    assert all(p.grad is not None for p in net.encoder.parameters())


def test_options_are_kept_whole_and_wrong_ones_named():
    net = made(1, {"name": "convnet", "channels": [4], "kernels": [3], "strides": [2]})
    assert net.options.encoder.options == {"channels": [4], "kernels": [3], "strides": [2], "norm": "batch"}
    assert net.options.decoder == UNetDecoder.Options(width=16)
    with pytest.raises(RequestError, match=r"encoder.encoder.name: 'tokens' is unknown"):
        made(1, {"name": "tokens"})
    with pytest.raises(RequestError, match=r"encoder.encoder: .*'channel' is unknown, did you mean 'channels'"):
        made(1, {"name": "convnet", "channel": [4]})
