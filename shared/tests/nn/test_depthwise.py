"""The predictor of CNN-JEPA: of any rank, with a token in unseen sites, blind to what is not there."""

import pytest
import torch
from pydantic import ValidationError

from unlabeled.core.nn.depthwise import DepthwisePredictor
from unlabeled.core.nn.maps import Map


def seen_in(values, valid):
    return Map(torch.where(valid.unsqueeze(1), values, 0), valid, (4,) * (values.ndim - 2))


def given(rank=2, **options):
    torch.manual_seed(0)
    predictor = DepthwisePredictor(5, rank, DepthwisePredictor.Options(**options)).double()
    shape = (6, 5, 4)[:rank]
    return predictor, torch.randn(3, 5, *shape, dtype=torch.float64), torch.rand(3, *shape) < 0.5


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_three_separable_convolutions(rank):
    predictor, values, valid = given(rank)
    shapes = [
        tuple(p.shape) for name, p in predictor.layers.named_parameters() if name.endswith("weight") and p.ndim > 1
    ]
    assert shapes == [(5, 1, *[3] * rank), (5, 5, *[1] * rank)] * 3
    out = predictor(seen_in(values, valid), None)
    assert out.shape == values.shape and (out >= 0).all()


def test_an_unseen_site_holds_the_token():
    predictor, values, valid = given()
    token = torch.where(valid.unsqueeze(1), values, predictor.mask_token)
    everywhere = Map(token, torch.ones_like(valid), (4, 4))
    assert torch.equal(predictor(seen_in(values, valid), None), predictor(everywhere, None))
    predictor(seen_in(values, valid), None).square().sum().backward()
    assert (predictor.mask_token.grad != 0).any()


def test_sites_that_are_not_there_change_nothing():
    # the same three items on a wider grid: convolution pads by zeros, as if nothing were there, and norms do not count it
    predictor, values, valid = given()
    plain = predictor(seen_in(values, valid), None)
    wider = torch.nn.functional.pad(values, (0, 3, 0, 2), value=9.0)
    there = torch.nn.functional.pad(torch.ones_like(valid), (0, 3, 0, 2))
    out = predictor(seen_in(wider, torch.nn.functional.pad(valid, (0, 3, 0, 2))), there)
    torch.testing.assert_close(out[:, :, :6, :5], plain, rtol=0, atol=1e-12)
    assert (out.masked_select(~there.unsqueeze(1)) == 0).all()


def test_a_kernel_has_a_middle():
    with pytest.raises(ValidationError, match="must be odd"):
        DepthwisePredictor.Options(kernel=4)
