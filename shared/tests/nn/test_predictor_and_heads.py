"""The predictor and the heads."""

import pytest
import torch
from pydantic import ValidationError

from unlabeled.core.nn.base import Features
from unlabeled.core.nn.heads import ClassificationHead, Projector, SegmentationHead
from unlabeled.core.nn.predictor import Predictor
from unlabeled.core.tokens.patches import patchify


def positions(*at):
    return torch.tensor(at, dtype=torch.float64)[None, :, None]


def setup():
    torch.manual_seed(0)
    predictor = Predictor(6, {"x": 5}, Predictor.Options(width=16, depth=2, heads=2)).double()
    tokens = torch.randn(1, 3, 6, dtype=torch.float64)
    return predictor, Features(tokens, torch.ones(1, 3, dtype=torch.bool), tokens.mean(1))


def test_hidden_tokens_are_predicted_and_every_parameter_learns():
    # two hidden tokens, five elements each; what gets no gradient would stop DDP
    predictor, features = setup()
    hidden = {"x": (positions(1, 3), torch.ones(1, 2, dtype=torch.bool))}
    found = predictor(features, {"x": positions(0, 2, 4)}, hidden)["x"]
    assert found.shape == (1, 2, 5)
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in predictor.parameters())
    with pytest.raises(ValidationError, match="greater than or equal to 1"):
        Predictor.Options(depth=0)


def test_predictions_follow_positions():
    # swapping two hidden positions swaps their predictions; a filler changes none
    predictor, features = setup()
    visible = {"x": positions(0, 2, 4)}
    both = torch.ones(1, 2, dtype=torch.bool)
    one = predictor(features, visible, {"x": (positions(1, 3), both)})["x"]
    other = predictor(features, visible, {"x": (positions(3, 1), both)})["x"]
    torch.testing.assert_close(other, one.flip(1), rtol=0, atol=1e-12)
    assert (one[:, 0] - one[:, 1]).abs().max() > 1e-3
    filled = predictor(features, visible, {"x": (positions(1, 3, 9), torch.tensor([[True, True, False]]))})["x"]
    torch.testing.assert_close(filled[:, :2], one, rtol=0, atol=1e-12)


def test_projector_ignores_rows_of_weight_zero():
    torch.manual_seed(0)
    x = torch.randn(5, 4, dtype=torch.float64)
    make = Projector(4, (8, 3)).double()
    weight = torch.tensor([1.0, 1, 0, 1, 0])
    torch.testing.assert_close(make(x, weight)[weight > 0], make(x[weight > 0]), rtol=0, atol=1e-12)
    # 4*8 without bias under the norm, its 2*8, and 8*3 + 3; without norm 4*8 + 8 + 8*3 + 3
    assert sum(p.numel() for p in make.parameters()) == 32 + 16 + 27
    assert sum(p.numel() for p in Projector(4, (8, 3), norm=False).parameters()) == 40 + 27


def test_classification_reads_pooled_features():
    head = ClassificationHead(4, 3)
    pooled = torch.randn(2, 4)
    expected = pooled @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(Features(pooled[:, None], torch.ones(2, 1).bool(), pooled)), expected)


def test_segmentation_puts_each_cell_where_it_was():
    # with an identity layer the "logits" of a token are its patch, so cells come back in place; 5 x 6 is cut from 6 x 6
    image = torch.randn(1, 2, 6, 6)
    head = SegmentationHead(2 * 3 * 2, 2, (3, 2))
    torch.nn.init.eye_(head.linear.weight), torch.nn.init.zeros_(head.linear.bias)
    tokens = patchify(image, (3, 2))
    features = Features(tokens, torch.ones(1, 6, dtype=torch.bool), tokens.mean(1))
    assert torch.equal(head(features, (5, 6)), image[:, :, :5])
