"""timm's weights in and out."""

import pytest
import timm
import torch

from unlabeled.core.contracts import Incompatible, InputSpec
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.timm_vit import from_timm, to_timm

SPEC = InputSpec(channels=("r", "g", "b"), units=("",) * 3, axes=("height", "width"), unit="px", spacing=(1.0, 1.0))
AVERAGE = {"class_token": False, "global_pool": "avg", "fc_norm": False}


def vit(**options):
    torch.manual_seed(0)
    sizes = {"img_size": (32, 24), "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
    model = timm.create_model("vit_tiny_patch16_224", **(sizes | options)).eval()
    # timm starts biases, norms and the class token near zero; random ones make every weight count
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def images(rows=2):
    return Dense(torch.randn(rows, 3, 32, 24), torch.ones(rows, 1, 32, 24, dtype=torch.bool), torch.ones(rows, 2))


@pytest.mark.parametrize("options", [{}, {"num_classes": 5}, AVERAGE])
def test_features_are_timms(options):
    model = vit(**options)
    encoder = from_timm(model, SPEC).eval()
    x = images()
    with torch.no_grad():
        out = encoder({"x": x})
        theirs = model.forward_features(x.values)
        pooled = model.forward_head(theirs, pre_logits=True)
    torch.testing.assert_close(out.tokens, theirs[:, model.num_prefix_tokens :], rtol=0, atol=1e-5)
    torch.testing.assert_close(out.pooled, pooled, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, AVERAGE])
def test_round_trip_of_the_state(options):
    model = vit(**options)
    state = to_timm(from_timm(model, SPEC))
    fresh = vit(**options)
    fresh.load_state_dict(state, strict=True)
    original = model.state_dict()
    if not options:
        # only the sum of the class token and its position means anything
        for s in (state, original):
            s["cls_token"] = s["cls_token"] + s["pos_embed"][:, :1]
            s["pos_embed"] = s["pos_embed"][:, 1:]
    assert all(torch.equal(state[name], value) for name, value in original.items())
    x = images().values
    with torch.no_grad():
        torch.testing.assert_close(fresh(x), model(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options", [{"reg_tokens": 2}, {"init_values": 0.1}, {"global_pool": "avg"}, {"act_layer": torch.nn.ReLU}]
)
def test_what_is_no_plain_vit_is_refused(options):
    with pytest.raises(Incompatible, match="no plain ViT"):
        from_timm(vit(**options), SPEC)


def test_what_timm_cannot_express_is_refused():
    with pytest.raises(Incompatible, match="learned positions"):
        to_timm(TokenEncoder({"x": SPEC}, TokenEncoder.Options(width=24, depth=1, patch=(8, 8))))
