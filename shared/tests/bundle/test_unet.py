"""A U-Net in and out of bundles: what its inner encoder begins from, its exports, and dense tasks on its decoder."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unlabeled.core.bundle import load_bundle, start_encoder
from unlabeled.core.bundle.export import export
from unlabeled.core.contracts import Incompatible, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.contracts.recipe import Named
from unlabeled.core.downstream.layers import layer_groups
from unlabeled.core.downstream.model import Model
from unlabeled.core.methods.decoder_denoising import DecoderDenoising
from unlabeled.core.testing.bundles import PLAIN, made, make_bundle, spec

INNER = {"channels": [4, 6], "kernels": [3, 3], "strides": [2, 2]}
DECODER = {"width": 16}
SPECS = {"scan": spec(2)}


def unet(seed: int = 0, **inner):
    return made("unet", SPECS, seed, encoder={"name": "convnet", **INNER, **inner}, decoder=DECODER)


def begin(start, encoder):
    return start_encoder(str(start), PLAIN, SPECS, encoder, 0)


def cells(shape=(2, 2, 12, 20)):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return {"scan": Dense(x, torch.ones_like(x[:, :1], dtype=torch.bool), torch.full((2, 2), 0.5), whole=True)}


def same(a, b) -> bool:
    return all(torch.equal(b.state_dict()[n], v) for n, v in a.state_dict().items())


def test_round_trip(tmp_path: Path) -> None:
    original = unet()
    encoder = load_bundle(make_bundle(tmp_path / "bundle", original))
    assert same(original, encoder) and encoder.named == original.named
    assert encoder.named["encoder"] == {"name": "convnet", **INNER, "norm": "batch"}
    with torch.no_grad():
        assert torch.equal(encoder(cells()).tokens, original(cells()).tokens)
    again = begin(tmp_path / "bundle", Named(name="unet", decoder=DECODER))
    assert same(original, again) and not again.report.overruled


@pytest.mark.parametrize(
    ("name", "options"), [("convnet", {**INNER, "norm": "none"}), ("timm", {"model": "resnet18", "stages": 2})]
)
def test_a_bundle_of_the_inner_encoder_fills_it(tmp_path: Path, name: str, options) -> None:
    inner = made(name, SPECS, seed=3, **options)
    bundle = make_bundle(tmp_path / "bundle", inner)
    # the sizes come from the weights, whatever the recipe leaves open
    encoder = begin(bundle, Named(name="unet", encoder={"name": name}, decoder=DECODER))
    assert same(inner, encoder.encoder) and encoder.named["encoder"] == inner.named
    assert encoder.named["decoder"] == DECODER and not encoder.training and not encoder.report.overruled
    assert encoder.report.start["start"] == "bundle bundle" and "the decoder's are random" in encoder.report.adapted[-1]
    # what it was pretrained on is still known
    assert encoder.bundle.groups == {"h1", "h2"}
    with torch.no_grad():
        torch.testing.assert_close(encoder(cells()).pooled, inner(cells()).pooled)


def test_a_frozen_encoder_with_weights_is_no_cause_of_a_warning(tmp_path: Path, caplog) -> None:
    bundle = make_bundle(tmp_path / "bundle", made("convnet", SPECS, **INNER))
    encoder = begin(bundle, Named(name="unet", encoder={"name": "convnet"}, decoder=DECODER))
    DecoderDenoising(encoder, SPECS, DecoderDenoising.Options())
    assert "random weights" not in caplog.text


def test_other_sizes_are_told_and_other_encoders_refused(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", made("convnet", SPECS, **INNER))
    encoder = begin(bundle, Named(name="unet", encoder={"name": "convnet", "channels": [9, 9]}))
    assert len(encoder.report.overruled) == 1 and encoder.report.overruled[0].startswith("encoder: ")
    tokens = make_bundle(tmp_path / "tokens", made("tokens", SPECS, width=16, depth=1, heads=2, patch=[4, 4]))
    with pytest.raises(RequestError, match=r"encoder\.encoder\.name: 'tokens' is unknown"):
        begin(tokens, Named(name="unet"))


@pytest.mark.slow
@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_exports_hold_the_tokens_too(tmp_path: Path, to: str) -> None:
    encoder = unet()
    report = export(make_bundle(tmp_path / "bundle", encoder), to, tmp_path / "out")
    assert report["difference"] <= 1e-4
    given = load_file(tmp_path / "out" / "fingerprint.safetensors")
    for values in (given["values"], torch.cat([given["values"]] * 2, 3)[:1]):
        if to == "torch":
            found = torch.export.load(tmp_path / "out" / "encoder.pt2").module()(values)[1]
        else:
            import onnxruntime

            session = onnxruntime.InferenceSession(
                tmp_path / "out" / "encoder.onnx", providers=["CPUExecutionProvider"]
            )
            found = torch.from_numpy(session.run(["tokens"], {"values": values.numpy()})[0])
        dense = Dense(values, torch.ones_like(values[:, :1], dtype=torch.bool), torch.full((len(values), 2), 0.5), True)
        with torch.no_grad():
            torch.testing.assert_close(found, encoder({"scan": dense}).tokens, rtol=0, atol=1e-4)


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_what_cannot_hold_it_says_so(tmp_path: Path, to: str) -> None:
    with pytest.raises(Incompatible, match="this is a UNet"):
        export(make_bundle(tmp_path / "bundle", unet()), to, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_segmentation_begins_from_the_decoder() -> None:
    # logits of every cell by one linear layer on its features, the decoder's
    model = Model(unet(), "segmentation", 3)
    assert model.head.linear.weight.shape == (3, 8)
    x = cells()
    out = model(x)
    assert out.shape == (2, 3, 12, 20)
    wanted = model.head.linear(model.norm(model.encoder(x).tokens)).transpose(1, 2).reshape(2, 3, 12, 20)
    torch.testing.assert_close(out, wanted)
    out.sum().backward()
    assert all(p.grad is not None for p in model.encoder.parameters())


def test_its_decoder_follows_the_last_layer() -> None:
    encoder = unet()
    *layers, after = layer_groups(encoder)
    assert len(layers) == 3 and not layers[0] and all(layers[1:])
    assert {id(p) for p in after} == {id(p) for p in encoder.decoder.parameters()}
    assert sum(map(len, layers)) + len(after) == len(list(encoder.parameters()))
