"""Weights of others: forward equality with the foreign model itself, adaptations by name, and every way to be absent."""

import json
import pickle
import zipfile
from argparse import Namespace
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from transformers import ViTConfig, ViTModel

from unlabeled.core.bundle import start_encoder
from unlabeled.core.bundle.foreign.channels import adapted
from unlabeled.core.contracts import Absent, Incompatible, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.contracts.recipe import Named
from unlabeled.core.testing.bundles import PLAIN, made, make_bundle, shaken, spec

RGB = ("red", "green", "blue")
SIZES = {"img_size": 32, "patch_size": 8, "depth": 2, "embed_dim": 48, "num_heads": 3, "num_classes": 0}
ASKED = Named(name="tokens", heads=3)  # a width of 48 is none of the published ones


def vit(**options):
    torch.manual_seed(0)
    return shaken(timm.create_model("vit_tiny_patch16_224", **{**SIZES, **options}))


def images(channels=RGB, **changes):
    return {"scan": spec(2, channels, **changes)}


def begin(start, specs=None, encoder=ASKED, seed=0):
    return start_encoder(str(start), PLAIN, specs or images(), encoder, seed)


def pixels(channels=3, side=32):
    torch.manual_seed(1)
    return torch.randn(2, channels, side, side)


@torch.no_grad()
def ours(encoder, x):
    whole = Dense(x, torch.ones_like(x[:, :1], dtype=torch.bool), torch.full((len(x), 2), 0.5))
    return encoder({"scan": whole})


def same_as_timm(encoder, model, x=None):
    x = pixels() if x is None else x
    found = ours(encoder, x)
    with torch.no_grad():
        theirs = model.forward_features(x)
        pooled = model.forward_head(theirs, pre_logits=True)
    torch.testing.assert_close(found.tokens, theirs[:, model.num_prefix_tokens :], rtol=0, atol=1e-5)
    torch.testing.assert_close(found.pooled, pooled, rtol=0, atol=1e-5)


def saved(state, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return path


def said(encoder, words: str) -> bool:
    return any(words in line for line in encoder.report.adapted)


# formats


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_timm_file(tmp_path, suffix):
    model = vit(num_classes=4)
    path = saved(model.state_dict(), tmp_path / f"w{suffix}")
    encoder = begin(f"timm:{path}")
    same_as_timm(encoder, model)
    assert said(encoder, "left out: head (2 tensors)")
    assert encoder.report.start["start"] == f"timm:w{suffix}" and len(encoder.report.start["sha256"]) == 64
    assert set(encoder.report.matched) == set(encoder.state_dict())
    assert encoder.named["width"] == 48 and encoder.named["patch"] == [8, 8]
    assert not encoder.report.overruled
    guessed = begin(path)
    assert said(guessed, "read as timm")
    torch.testing.assert_close(ours(guessed, pixels()).pooled, ours(encoder, pixels()).pooled, rtol=0, atol=0)


def test_mae_checkpoint(tmp_path):
    """The authors' layout: under `model`, with a decoder beside the encoder, and the command line beside both."""
    model = vit()
    state = {
        **model.state_dict(),
        "mask_token": torch.zeros(1, 1, 8),
        "decoder_pos_embed": torch.zeros(1, 17, 8),
        "decoder_blocks.0.norm1.weight": torch.ones(8),
        "decoder_embed.weight": torch.ones(8, 48),
    }
    path = saved({"model": state, "args": Namespace(lr=1e-3), "epoch": 3}, tmp_path / "mae.pth")
    for start in (f"mae:{path}", path):
        encoder = begin(start)
        same_as_timm(encoder, model)
        assert said(encoder, "'model'") and said(encoder, "(4 tensors)")


def test_dino_takes_the_teacher(tmp_path):
    model, student = vit(), vit(depth=1)
    teacher = {f"backbone.{k}": v for k, v in model.state_dict().items()} | {"head.mlp.0.weight": torch.ones(2, 2)}
    student = {f"module.backbone.{k}": v for k, v in student.state_dict().items()}
    path = saved({"student": student, "teacher": teacher, "args": Namespace()}, tmp_path / "dino.pth")
    encoder = begin(f"dino:{path}")
    same_as_timm(encoder, model)
    assert said(encoder, "'teacher'") and said(encoder, "'backbone.'; left out: head (1 tensors)")


def test_dinov2_scales_are_folded(tmp_path):
    """gamma (W h + b) = (gamma W) h + gamma b, so LayerScale needs no part of its own."""
    model = vit(init_values=0.3)
    state = {**model.state_dict(), "mask_token": torch.zeros(1, 48)}
    encoder = begin(f"dinov2:{saved(state, tmp_path / 'v2.pth')}")
    same_as_timm(encoder, model)
    assert said(encoder, "4 LayerScales folded")
    chunked = {k.replace("blocks.0.", "blocks.0.0.").replace("blocks.1.", "blocks.0.1."): v for k, v in state.items()}
    # one chunk holds both: places are those of the whole model
    again = begin(f"dinov2:{saved(chunked, tmp_path / 'chunks.pth')}")
    same_as_timm(again, model)
    gated = {**state, "blocks.0.mlp.w12.weight": torch.ones(2, 2)}
    with pytest.raises(Incompatible, match="gated MLPs"):
        begin(f"dinov2:{saved(gated, tmp_path / 'g.pth')}")
    registers = {**state, "register_tokens": torch.zeros(1, 4, 48)}
    with pytest.raises(Incompatible, match="register"):
        begin(f"dinov2:{saved(registers, tmp_path / 'r.pth')}")


@pytest.mark.parametrize(
    ("whose", "epsilon", "within"),
    # the epsilon of our norms, then transformers' own, which ours is not
    [("file", 1e-6, 1e-5), ("memory", 1e-6, 1e-5), ("classifier", 1e-12, 1e-4)],
)
def test_transformers_vit(tmp_path, whose, epsilon, within):
    """Query, key and value joined; equal to ViTModel itself, as its file and as its state dict name things."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96}
    model = shaken(ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8, layer_norm_eps=epsilon)))
    if whose == "memory":
        path = saved(model.state_dict(), tmp_path / "vit.pt")
    else:
        model.save_pretrained(tmp_path / "vit")
        path = tmp_path / "vit/model.safetensors"
    if whose == "classifier":
        state = {f"vit.{k}": v for k, v in load_file(path).items()} | {"classifier.weight": torch.ones(2, 48)}
        path = saved(state, tmp_path / "cls.safetensors")
    encoder = begin(f"hf-vit:{path}")
    with torch.no_grad():
        theirs = model(pixel_values=pixels()).last_hidden_state
    found = ours(encoder, pixels())
    torch.testing.assert_close(found.tokens, theirs[:, 1:], rtol=0, atol=within)
    torch.testing.assert_close(found.pooled, theirs[:, 0], rtol=0, atol=within)
    assert said(encoder, "epsilon of 1e-6") and said(encoder, "left out: pooler (2 tensors)")


def rows(x):
    """In our layout of maps: another one rounds differently, which a shaken net grows a million times over."""
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_resnet(tmp_path, name):
    torch.manual_seed(0)
    model = shaken(getattr(torchvision.models, name)(num_classes=3))
    path = saved(model.state_dict(), tmp_path / "r.pth")
    encoder = begin(path, encoder=Named(name="timm", model=name))
    assert said(encoder, "read as torchvision-resnet") and said(encoder, "left out: fc (2 tensors)")
    assert encoder.named["name"] == "timm" and encoder.named["model"] == name and not encoder.report.overruled
    model.fc = torch.nn.Identity()
    with torch.no_grad():
        theirs = model(rows(pixels(side=64)))
    torch.testing.assert_close(ours(encoder, pixels(side=64)).pooled, theirs, rtol=1e-5, atol=1e-5)


def test_our_own_tensors(tmp_path):
    """A bundle's weights without their bundle: the encoder is the recipe's, and the contract is on trust."""
    encoder = made("convnet", {"scan": spec(1)}, channels=[4], kernels=[3], strides=[2])
    state = {f"module._orig_mod.{k}": v for k, v in encoder.state_dict().items()}
    named = Named(name="convnet", channels=[4], kernels=[3], strides=[2])
    again = begin(saved(state, tmp_path / "own.safetensors"), {"scan": spec(1)}, named)
    assert all(again.state_dict()[k].equal(v) for k, v in encoder.state_dict().items())
    assert said(again, "compiled") and said(again, "'module.'") and said(again, "on trust")
    with pytest.raises(Incompatible, match="0 of 5 tensors matched"):
        begin(
            tmp_path / "own.safetensors", {"scan": spec(1, ("a", "b", "c"))}, Named(**{**dict(named), "channels": [5]})
        )


# a name of timm's


def fetched(monkeypatch, model):
    """timm gives this model for a name whose weights would be fetched."""
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained, num_classes: model)


def test_timm_name(monkeypatch):
    model, reference = vit(), vit()
    fetched(monkeypatch, model)
    encoder = begin("timm:vit_tiny_patch16_224.augreg_in21k")
    same_as_timm(encoder, reference)
    assert encoder.report.start["start"] == "timm:vit_tiny_patch16_224.augreg_in21k"
    assert said(encoder, "normalised by the data's contract")
    again = begin("timm:vit_tiny_patch16_224.augreg_in21k")
    assert again.report.start == encoder.report.start


def test_timm_name_of_a_net(monkeypatch):
    torch.manual_seed(0)
    model = shaken(timm.create_model("resnet18", num_classes=0))
    real = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, **o: model if o.get("pretrained") else real(name, **o))
    encoder = begin("timm:resnet18.a1_in1k", encoder=Named(name="timm"))
    with torch.no_grad():
        torch.testing.assert_close(
            ours(encoder, pixels(side=64)).pooled, model(rows(pixels(side=64))), rtol=1e-5, atol=1e-5
        )
    grey = begin("timm:resnet18.a1_in1k", images(("ct",)))
    assert said(grey, "the mean over 3 input channels for ct, scaled by 3/1")
    one = pixels(1, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(grey, one).pooled, model(one.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def test_timm_names_that_are_not_there(monkeypatch):
    with pytest.raises(RequestError, match="did you mean 'resnet18'"):
        begin("timm:resnet118")
    with pytest.raises(RequestError, match=r"did you mean 'vit_tiny_patch16_224\.augreg_in21k'"):
        begin("timm:vit_tiny_patch16_224.augreg_in21")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Absent, match=r"absent here and cannot be fetched .* timm:FILE") as error:
        begin("timm:vit_tiny_patch16_224.augreg_in21k")
    assert "\n" not in str(error.value)


# channels


def test_channels_by_name_are_a_permutation(tmp_path):
    model = vit()
    path = saved(model.state_dict(), tmp_path / "w.pt")
    assert not said(begin(path), "channels")
    encoder = begin(path, images(("B", "green", "R")))
    assert said(encoder, "red, green, blue by name")
    torch.testing.assert_close(
        ours(encoder, pixels()[:, [2, 1, 0]]).tokens, ours(begin(path), pixels()).tokens, rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("had", "channels", "says"),
    [
        (3, ("red", "nir", "green", "blue"), "the mean of them for nir, all scaled by 3/4"),
        (3, ("vv", "vh"), "the mean over 3 input channels for vv, vh, scaled by 3/2"),
        (3, ("a", "b", "c"), "the mean over 3 input channels for a, b, c, scaled by 3/3"),
        (1, ("a", "b"), "the mean over 1 input channels for a, b, scaled by 1/2"),
        (4, ("a", "b", "c", "d"), "taken in order as a, b, c, d"),
        (13, RGB, "the mean over 13 input channels"),
    ],
)
def test_equal_channels_give_what_they_gave(had, channels, says):
    """The sum of the weights over the input channels stays."""
    torch.manual_seed(0)
    weight = torch.randn(5, had, 3, 3, dtype=torch.float64)
    new, line = adapted(weight, channels)
    assert new.shape == (5, len(channels), 3, 3) and says in line
    torch.testing.assert_close(new.sum(1), weight.sum(1), rtol=0, atol=1e-12)
    if had == 4:
        assert new.equal(weight)


# grids, pools, what the recipe asks


def test_positions_are_interpolated_as_timm_does(tmp_path):
    model = vit()
    path = saved(model.state_dict(), tmp_path / "w.pt")
    encoder = begin(path, encoder=Named(name="tokens", heads=3, grid=[6, 5], pool="mean"))
    assert said(encoder, "positions: 4 x 4 interpolated to 6 x 5 (bicubic)")
    wanted = resample_abs_pos_embed(model.pos_embed[:, 1:], [6, 5], [4, 4], num_prefix_tokens=0)
    torch.testing.assert_close(encoder.table.flatten(0, 1), wanted[0], rtol=0, atol=1e-6)
    assert encoder.named["grid"] == [6, 5] and encoder.named["pool"] == "mean" and not encoder.report.overruled
    found = ours(encoder, pixels())
    torch.testing.assert_close(found.pooled, found.tokens.mean(1), rtol=0, atol=1e-6)


def test_what_the_weights_decide_is_said(tmp_path):
    path = saved(vit().state_dict(), tmp_path / "w.pt")
    encoder = begin(path, encoder=Named(name="convnet", heads=3, width=192, patch=[8, 8]))
    assert encoder.report.overruled == ("name: tokens, not convnet", "width: 48, not 192")
    with pytest.raises(Incompatible, match=r"name encoder\.heads"):
        begin(path, encoder=Named(name="tokens"))
    narrow = saved(vit(img_size=(32, 24)).state_dict(), tmp_path / "n.pt")
    with pytest.raises(Incompatible, match=r"12 positions.*name encoder\.grid"):
        begin(narrow)
    same_as_timm(
        begin(narrow, encoder=Named(name="tokens", heads=3, grid=[4, 3])), vit(img_size=(32, 24)), pixels()[..., :24]
    )


def test_published_widths_have_published_heads(tmp_path):
    model = vit(embed_dim=192, depth=1)
    path = saved(model.state_dict(), tmp_path / "w.pt")
    encoder = begin(path, encoder=Named(name="tokens"))
    same_as_timm(encoder, model)
    assert said(encoder, "3 heads, as in the published ViT of width 192")


def test_random_is_the_recipes_own():
    named = Named(name="tokens", width=24, heads=2, depth=1, patch=[8, 8])
    a, b, c = (begin("random", encoder=named, seed=s) for s in (0, 0, 1))
    assert a.report is None
    assert all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not all(x.equal(y) for x, y in zip(a.state_dict().values(), c.state_dict().values(), strict=True))


# bundles


def test_a_bundle_and_its_contract(tmp_path):
    encoder = made("tokens", images(), width=24, heads=2, depth=1, patch=[8, 8])
    path = make_bundle(tmp_path / "bundle", encoder)
    other = images(normaliser={"method": "standard", "constants": {"": {"offset": [0] * 3, "scale": [1] * 3}}})
    again = begin(path, other, Named(name="tokens"))
    torch.testing.assert_close(ours(again, pixels()).pooled, ours(encoder, pixels()).pooled, rtol=0, atol=1e-6)
    assert again.specs == other and said(again, "constants of these data")
    about = json.loads((path / "bundle.json").read_text())
    assert again.report.start == {"start": "bundle bundle", "sha256": about["sha256"]}


@pytest.mark.parametrize(
    ("specs", "says"),
    [
        (images(("blue", "green", "red")), r"channels red, green, blue.*convert: \[order\]"),
        (images(units=("g",) * 3), r"units.*convert: \[units\]"),
        (images(spacing=(0.5, 0.7)), r"spacing 0.5, 0.5 .* 0.5, 0.7; resample.*convert: \[rate\]"),
        (images(spacing=None), "spacing"),
        (images(unit="m"), "unit mm"),
        ({"x": spec(2, RGB)}, "name them alike"),
        ({"scan": spec(3, RGB)}, "axes"),
    ],
)
def test_another_contract_is_refused(tmp_path, specs, says):
    path = make_bundle(tmp_path / "bundle", made("convnet", images(), channels=[4], kernels=[3], strides=[2]))
    with pytest.raises(Incompatible, match=says) as error:
        begin(path, specs, Named(name="convnet"))
    assert "\n" not in str(error.value)


def test_a_bundle_of_another_domain(tmp_path):
    from dataclasses import replace

    path = make_bundle(tmp_path / "bundle", made("convnet", images(), channels=[4], kernels=[3], strides=[2]))
    with pytest.raises(Incompatible, match="for plain, the data are for other"):
        start_encoder(str(path), replace(PLAIN, name="other"), images(), Named(name="convnet"), 0)


# bad files


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_nothing_in_a_file_runs(tmp_path):
    canary = tmp_path / "canary"
    state = {**vit().state_dict(), "evil": Canary(canary)}
    torch.save(state, tmp_path / "zip.pt")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(state))
    (tmp_path / "raw.safetensors").write_bytes(pickle.dumps(state))
    (tmp_path / "raw.bin").write_bytes(pickle.dumps(Canary(canary)))
    for name in ("zip.pt", "old.pth", "raw.pt", "raw.safetensors", "raw.bin"):
        for start in (tmp_path / name, f"timm:{tmp_path / name}"):
            with pytest.raises(Incompatible, match="cannot be read as weights alone") as error:
                begin(start)
            assert "\n" not in str(error.value)
    assert not canary.exists()
    pickle.loads((tmp_path / "raw.bin").read_bytes())  # the canary does sing where it is let
    assert canary.exists()


def packed_again(source: Path, out: Path) -> Path:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry))
    return out


def test_files_that_are_broken_or_lie(tmp_path):
    good = vit().state_dict()
    whole = saved(good, tmp_path / "w.pt").read_bytes()
    safe = saved(good, tmp_path / "w.safetensors").read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole[: len(whole) // 2])
    cut_safe = tmp_path / "cut.safetensors"
    cut_safe.write_bytes(safe[: len(safe) // 2])
    header = tmp_path / "header.safetensors"
    header.write_bytes((2**62).to_bytes(8, "little") + b"{}")
    bomb = packed_again(tmp_path / "w.pt", tmp_path / "bomb.pt")
    empty = tmp_path / "empty.pt"  # its pickle takes from an empty stack
    with zipfile.ZipFile(tmp_path / "w.pt") as old, zipfile.ZipFile(empty, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, b"\x80\x02." if entry.filename.endswith("data.pkl") else old.read(entry))
    huge = saved({**good, "patch_embed.proj.weight": torch.zeros(1).expand(10**9, 3, 8, 8)}, tmp_path / "huge.pt")
    nothing = saved({"epoch": 3}, tmp_path / "nothing.pt")
    bare = saved([torch.zeros(3)], tmp_path / "list.pt")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    nan = {**good, "norm.bias": good["norm.bias"] * float("nan")}
    lacks = {k: v for k, v in good.items() if k != "blocks.1.norm1.bias"}
    far = {**good, "blocks.99999999.norm1.bias": torch.zeros(48)}
    shape = {**good, "blocks.1.mlp.fc1.weight": torch.zeros(96, 48)}
    twice = {f"{a}.{k}": v for a in ("model", "encoder") for k, v in good.items()}
    strange = {f"mine.{k}": v for k, v in good.items()}
    for start, says in (
        (cut, "weights alone"),
        (cut_safe, "weights alone"),
        (header, "weights alone"),
        (bomb, "compressed"),
        (empty, "weights alone"),
        (huge, "claims more values"),
        (nothing, "no named tensors"),
        (bare, "no named tensors"),
        (text, "no weight file"),
        (saved(nan, tmp_path / "nan.pt"), "norm.bias holds values that are not finite"),
        (saved(lacks, tmp_path / "lacks.pt"), "blocks.1.norm1.bias"),
        (saved(far, tmp_path / "far.pt"), "lack blocks"),
        (saved(shape, tmp_path / "shape.pt"), "blocks.1.mlp.fc1.weight"),
        (f"timm:{saved(twice, tmp_path / 'twice.pt')}", "have 2 patch_embed"),
        (f"timm:{saved(strange, tmp_path / 'strange.pt')}", "have no patch_embed"),
        (f"hf-vit:{tmp_path / 'w.pt'}", "have no embeddings"),
        (f"torchvision-resnet:{tmp_path / 'w.pt'}", "have no layer1"),
    ):
        with pytest.raises(Incompatible, match=says) as error:
            begin(start)
        assert "\n" not in str(error.value), start


def test_images_only(tmp_path):
    path = saved(vit().state_dict(), tmp_path / "w.pt")
    with pytest.raises(Incompatible, match="images of two axes"):
        begin(path, {"scan": spec(3, RGB)})
    with pytest.raises(Incompatible, match="read one image"):
        begin(path, {**images(), "other": spec(2)})


def test_what_is_absent(tmp_path):
    for start in (tmp_path / "none.pt", f"mae:{tmp_path / 'none.pth'}", f"timm:{tmp_path / 'none.safetensors'}"):
        with pytest.raises(Absent, match="absent here; put"):
            begin(start)
    with pytest.raises(RequestError, match="did you mean 'dinov2'"):
        begin("dinov3:somewhere")
    with pytest.raises(RequestError, match="no bundle"):
        begin(tmp_path)
