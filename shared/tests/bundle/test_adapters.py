"""Adapters in and out of bundles: what they begin from, and the formats that cannot hold them."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from unlabeled.core.bundle import load_bundle, start_encoder
from unlabeled.core.bundle.export import export
from unlabeled.core.contracts import Incompatible
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.contracts.recipe import Named
from unlabeled.core.nn.adapter import adapters
from unlabeled.core.testing.bundles import PLAIN, made, make_bundle, shaken, spec

SPECS = {"scan": spec(2)}
TOKENS = {"width": 16, "depth": 2, "heads": 2, "patch": [4, 4]}
NEW = "the adapters are new, and zero"


def begin(start, **options):
    return start_encoder(str(start), PLAIN, SPECS, Named(name="tokens", **options), 0)


def cells(channels=2):
    x = torch.randn(2, channels, 12, 20, generator=torch.Generator().manual_seed(0))
    return {"scan": Dense(x, torch.ones_like(x[:, :1], dtype=torch.bool), torch.full((2, 2), 0.5), whole=True)}


def says_the_same(a, b, channels=2) -> bool:
    with torch.no_grad():
        return torch.equal(a(cells(channels)).tokens, b(cells(channels)).tokens)


def test_round_trip(tmp_path: Path) -> None:
    original = made("tokens", SPECS, **TOKENS, adapter=3)
    encoder = load_bundle(make_bundle(tmp_path / "bundle", original))
    assert encoder.named == original.named and encoder.named["adapter"] == 3
    assert len(adapters(encoder)) == 2 and says_the_same(encoder, original)


def test_a_bundle_without_them_gets_new_ones(tmp_path: Path) -> None:
    plain = made("tokens", SPECS, **TOKENS)
    encoder = begin(make_bundle(tmp_path / "bundle", plain), adapter=5)
    # at first they add nothing, to the bit
    assert says_the_same(encoder, plain) and encoder.named["adapter"] == encoder.options.adapter == 5
    assert not encoder.report.overruled and encoder.report.adapted[-1] == NEW and not encoder.training
    assert encoder.report.start["start"] == "bundle bundle" and encoder.bundle.groups == {"h1", "h2"}
    assert all(a.down.weight.abs().max() > 0 and not a.up.weight.any() for a in adapters(encoder))
    # what is saved of it is an encoder with adapters
    assert len(adapters(load_bundle(make_bundle(tmp_path / "next", encoder)))) == 2
    # and other options are still refused
    assert begin(tmp_path / "bundle", adapter=5, width=32).report.overruled == ("width: 16, not 32",)


def test_a_bundle_with_them_keeps_them(tmp_path: Path) -> None:
    own = made("tokens", SPECS, **TOKENS, adapter=3)
    make_bundle(tmp_path / "bundle", own)
    for options in ({"adapter": 3}, {}):
        encoder = begin(tmp_path / "bundle", **options)
        assert says_the_same(encoder, own) and NEW not in encoder.report.adapted and not encoder.report.overruled
    assert begin(tmp_path / "bundle", adapter=4).report.overruled == ("adapter: 3, not 4",)
    assert begin(tmp_path / "bundle", adapter=0).report.overruled == ("adapter: 3, not 0",)


def test_a_file_of_our_own_tensors(tmp_path: Path) -> None:
    for name, options in (("plain", {}), ("own", {"adapter": 3})):
        encoder = made("tokens", SPECS, **TOKENS, **options)
        save_file(dict(encoder.state_dict()), tmp_path / f"{name}.safetensors")
        found = begin(tmp_path / f"{name}.safetensors", **TOKENS, adapter=3)
        assert says_the_same(found, encoder) and (NEW in found.report.adapted) == (name == "plain")


def test_weights_of_others(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"img_size": (12, 20), "patch_size": 4, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
    model = shaken(timm.create_model("vit_tiny_patch16_224", **sizes))
    save_file(dict(model.state_dict()), tmp_path / "vit.safetensors")
    specs = {"scan": spec(2, ("red", "green", "blue"))}
    asked = Named(name="tokens", heads=3, grid=(3, 5), adapter=4)
    encoder = start_encoder(f"timm:{tmp_path / 'vit.safetensors'}", PLAIN, specs, asked, 0)
    assert encoder.report.adapted[-1] == NEW and not encoder.report.overruled
    with torch.no_grad():
        theirs = model.forward_features(cells(3)["scan"].values)[:, 1:]
        torch.testing.assert_close(encoder(cells(3)).tokens, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("to", ["timm", "hf"])
def test_a_format_without_adapters_says_so(tmp_path: Path, to: str) -> None:
    bundle = make_bundle(tmp_path / "bundle", made("tokens", SPECS, **TOKENS, adapter=3), window=(8.0, 8.0))
    with pytest.raises(Incompatible, match=r"cannot express encoder\.adapter; --to onnx or torch hold") as error:
        export(bundle, to, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_a_format_that_holds_every_encoder_holds_them(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", made("tokens", SPECS, **TOKENS, adapter=3))
    assert export(bundle, "torch", tmp_path / "out")["difference"] < 1e-4
