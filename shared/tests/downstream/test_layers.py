import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.downstream.layers import layer_groups, optimiser_groups
from unlabeled.core.downstream.model import Model
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder

SPECS = {"x": InputSpec(channels=("a", "b"), units=("", ""), spacing=(1.0,))}


def tokens(depth: int = 3) -> TokenEncoder:
    return TokenEncoder(SPECS, TokenEncoder.Options(width=8, depth=depth, heads=2, patch=(4,), cls=True, pool="cls"))


def convnet() -> ConvNet:
    return ConvNet(SPECS, ConvNet.Options(channels=(4, 6), kernels=(3, 3), strides=(2, 1)))


@pytest.mark.parametrize("encoder", [tokens(), convnet()])
def test_every_parameter_is_in_one_layer(encoder: Encoder) -> None:
    found = [id(p) for layer in layer_groups(encoder) for p in layer]
    assert sorted(found) == sorted(id(p) for p in encoder.parameters())


def test_the_rate_of_a_layer_in_closed_form() -> None:
    # depth 3, decay 1/2, lr 0.8: block i learns at 0.8 / 2^(3 - i) = 0.1, 0.2, 0.4, the embeddings (layer -1) at 0.05, the
    # final norm at 0.8, the head at its own 0.3
    model = Model(tokens(), "classification", 5)
    rate = {id(p): g["lr"] for g in optimiser_groups(model, 0.8, 0.3, 0.5, 0.1) for p in g["params"]}
    names = dict(model.named_parameters())
    expected = {
        "encoder.project.x.weight": 0.05,
        "encoder.cls_token": 0.05,
        "encoder.transformer.blocks.0.attn.qkv.weight": 0.1,
        "encoder.transformer.blocks.1.norm1.weight": 0.2,
        "encoder.transformer.blocks.2.mlp.fc2.bias": 0.4,
        "encoder.transformer.norm.weight": 0.8,
        "norm.weight": 0.3,
        "head.linear.weight": 0.3,
    }
    assert {n: rate[id(names[n])] for n in expected} == pytest.approx(expected, rel=1e-12)
    assert len(rate) == len(names)


def test_a_convnet_decays_by_layer_and_only_matrices_decay_to_zero() -> None:
    # depth 2: layers 0 and 1 learn at 1/4 and 1/2, their norms with them
    model = Model(convnet(), "segmentation", 3)
    groups = optimiser_groups(model, 1.0, None, 0.5, 0.1)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    names = dict(model.named_parameters())
    for name, expected in {
        "encoder.convs.0.weight": (0.25, 0.1),
        "encoder.norms.0.weight": (0.25, 0.0),
        "encoder.convs.1.weight": (0.5, 0.1),
        "head.linear.weight": (1.0, 0.1),
        "head.linear.bias": (1.0, 0.0),
    }.items():
        assert found[id(names[name])] == expected, name


def test_a_frozen_encoder_is_in_no_group_and_stays_in_evaluation_mode() -> None:
    model = Model(convnet(), "classification", 3).freeze().train()
    assert model.training and not model.encoder.training
    held = {id(p) for g in optimiser_groups(model, 1.0) for p in g["params"]}
    assert held == {id(p) for p in [*model.norm.parameters(), *model.head.parameters()]}


def test_an_encoder_without_layers_has_no_decay() -> None:
    class Flat(Encoder):
        def __init__(self) -> None:
            super().__init__(SPECS, 4, 4)
            self.linear = torch.nn.Linear(2, 4)

    model = Model(Flat(), "classification", 2)
    assert {g["lr"] for g in optimiser_groups(model, 0.5)} == {0.5}
    with pytest.raises(RequestError, match="a Flat has no numbered layers; set layer_decay=1"):
        optimiser_groups(model, 0.5, layer_decay=0.9)
    with pytest.raises(RequestError, match="the tokens of a Flat lie on no grid"):
        Model(Flat(), "segmentation", 2)
