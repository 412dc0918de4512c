"""The convolutional decoder: any rank, and invalid tokens are nothing."""

import pytest
import torch
from torch.nn import functional as F

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.nn.conv_decoder import ConvDecoder

GRIDS = {1: (7,), 2: (4, 5), 3: (3, 2, 4)}


def decoder(rank, token_width=8, **options):
    torch.manual_seed(0)
    made = ConvDecoder.Options(**({"width": 8, "depth": 2, "groups": 2} | options))
    return ConvDecoder(token_width, 5, rank, made).double()


def given(rank, rows=2):
    length = torch.tensor(GRIDS[rank]).prod()
    g = torch.Generator().manual_seed(1)
    return torch.randn(rows, length, 8, dtype=torch.float64, generator=g), torch.ones(rows, length, dtype=torch.bool)


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_shapes_and_reach(rank):
    # two convolutions of 3 reach 2 tokens along each axis
    make, (x, valid) = decoder(rank), given(rank)
    plain = make(x, valid, GRIDS[rank])
    assert plain.shape == (*x.shape[:2], 5)
    other = x.clone()
    other[:, 0] += 1
    place = torch.cartesian_prod(*[torch.arange(n) for n in GRIDS[rank]]).reshape(-1, rank)
    changed = (make(other, valid, GRIDS[rank]) - plain).abs().amax((0, 2)) > 1e-9
    assert torch.equal(changed, place.amax(-1) <= 2)


def test_one_layer_by_hand():
    make, (x, valid) = decoder(2, depth=1), given(2)
    image = x.transpose(1, 2).reshape(2, 8, 4, 5)
    conv = make.convs[0]
    y = F.conv2d(image, conv.weight, conv.bias, padding=1, groups=2).permute(0, 2, 3, 1)
    y = image.permute(0, 2, 3, 1) + F.gelu(F.layer_norm(y, (8,)))
    expected = y.reshape(2, 20, 8) @ make.head.weight.T + make.head.bias
    torch.testing.assert_close(make(x, valid, (4, 5)), expected, rtol=0, atol=1e-12)


def test_invalid_tokens_equal_the_edge():
    # a row of 7 whose last 2 tokens are invalid gives the first 5 what a row of 5 gives
    make, (x, valid) = decoder(1), given(1)
    valid[:, 5:] = False
    spoiled = torch.where(valid[..., None], x, torch.nan)
    short = make(x[:, :5], valid[:, :5], (5,))
    # the residual of an invalid token stays what it was, and reaches no valid one
    torch.testing.assert_close(make(spoiled, valid, (7,))[:, :5], short, rtol=0, atol=1e-12)


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(RequestError, match=r"16 groups do not divide .* 8 \(encoder\) and 24 .*groups to 8"):
        decoder(1, width=24, groups=16)
    with pytest.raises(RequestError, match="kernel must be odd"):
        validated(ConvDecoder.Options, {"kernel": 4}, "decoder")
