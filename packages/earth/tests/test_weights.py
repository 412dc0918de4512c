"""torchgeo's weights in and out: the same features as torchgeo's own model, and a guard on what they are fed.

The weights are made here: torchgeo's models with random values under torchgeo's names of tensors.
"""

import subprocess
import sys
import urllib.error

import numpy as np
import pytest
import torch
import torchgeo.models
from safetensors.torch import load_file
from torch import hub
from torchgeo.models import ResNet18_Weights, ResNet50_Weights, ViTSmall16_Weights
from torchvision.transforms.v2 import Normalize

from unlabeled.core.build import make_encoder
from unlabeled.core.bundle import save_bundle, start_encoder
from unlabeled.core.bundle.export import export
from unlabeled.core.contracts import Absent, Constants, Incompatible, InputSpec, Normaliser, RequestError, load
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.contracts.recipe import Data, Named, Recipe, located
from unlabeled.core.testing.bundles import shaken
from unlabeled.earth import domain
from unlabeled.earth.sensors import SENSORS
from unlabeled.earth.torchgeo_entries import expected, pretraining_size
from unlabeled.earth.torchgeo_export import transforms

S2 = SENSORS["sentinel2-l1c"].names
NAME = "ResNet18_Weights.SENTINEL2_ALL_MOCO"
ROUNDING = {"rtol": 1e-4, "atol": 1e-4}  # features are up to 100, and another order of memory sums in another order


def spec(channels=S2, unit="1", normaliser="div10000", source="sentinel2-l1c"):
    made = InputSpec(channels=channels, units=(unit,) * len(channels), axes=("y", "x"), unit="m", spacing=(10.0, 10.0))
    if normaliser == "none":
        return made
    if normaliser == "standard":  # what `measure` would find on SSL4EO-like data
        constants = Constants(offset=(0.15,) * len(channels), scale=(0.12,) * len(channels))
    else:
        constants = load(domain.normalisers[normaliser])(made, source)
    return made.model_copy(update={"normaliser": Normaliser(method=normaliser, constants={source: constants})})


def begin(start, given=None, encoder="timm"):
    return start_encoder(f"torchgeo:{start}", domain, {"x": given or spec()}, Named(name=encoder), seed=0)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return shaken(torchgeo.models.resnet18(in_chans=13, num_classes=0))


@pytest.fixture(scope="module")
def file(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "moco.pth"
    torch.save(net.state_dict(), path)
    return path


@torch.no_grad()
def ours(encoder, x):
    dense = Dense(x, torch.ones_like(x[:, :1], dtype=torch.bool), torch.full((len(x), 2), 10.0), whole=True)
    return encoder({"x": dense}).pooled


def pixels(channels=13, side=64):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


# in


def test_resnet_gives_what_torchgeo_gives(net, file):
    encoder = begin(f"{NAME}={file}")
    with torch.no_grad():
        theirs = net(pixels())
    torch.testing.assert_close(ours(encoder, pixels()), theirs, **ROUNDING)
    assert encoder.report.start["start"] == f"torchgeo:{NAME}" and len(encoder.report.start["sha256"]) == 64
    assert any("pretrained on 224 x 224 cells" in line for line in encoder.report.adapted)
    assert encoder.named == {"name": "timm", "model": "resnet18", "stages": None}


def test_bands_in_another_order_get_their_own_weights(net, file):
    """EuroSAT's files have B8A last; torchgeo's weights have it (as B8a) after B8."""
    order = (*(b for b in S2 if b != "B8A"), "B8A")
    encoder = begin(f"{NAME}={file}", spec(order))
    x = pixels()
    moved = x[:, [S2.index(b) for b in order]]
    with torch.no_grad():
        theirs = net(x)
    torch.testing.assert_close(ours(encoder, moved), theirs, **ROUNDING)
    assert not torch.allclose(ours(encoder, x), theirs, atol=1e-2)
    assert any("by name" in line for line in encoder.report.adapted)
    torch.testing.assert_close(ours(begin(f"{NAME}={file}", spec(("B01", *S2[1:]))), x), theirs, **ROUNDING)


def test_rgb_weights_are_not_averaged(tmp_path):
    torch.manual_seed(0)
    net = shaken(torchgeo.models.resnet18(in_chans=3, num_classes=0))
    torch.save(net.state_dict(), tmp_path / "rgb.pth")
    encoder = begin(f"ResNet18_Weights.SENTINEL2_RGB_MOCO={tmp_path / 'rgb.pth'}", spec(("B4", "B3", "B2")))
    with torch.no_grad():
        torch.testing.assert_close(ours(encoder, pixels(3)), net(pixels(3)), **ROUNDING)


def test_vit_gives_what_torchgeo_gives(tmp_path):
    torch.manual_seed(0)
    net = shaken(torchgeo.models.vit_small_patch16_224(in_chans=13, num_classes=0, depth=2))
    torch.save(net.state_dict(), tmp_path / "vit.pth")
    encoder = begin(f"ViTSmall16_Weights.SENTINEL2_ALL_DINO={tmp_path / 'vit.pth'}", encoder="tokens")
    with torch.no_grad():
        torch.testing.assert_close(ours(encoder, pixels(side=224)), net(pixels(side=224)), **ROUNDING)


def test_other_bands_are_refused_by_name(file):
    with pytest.raises(Incompatible, match=r"reads the bands B1, B2, .*, the data have B2, B3, B4"):
        begin(f"{NAME}={file}", spec(("B2", "B3", "B4")))


def test_a_file_of_something_else_is_refused(net, file, tmp_path):
    def saved(state):
        torch.save(state, tmp_path / "w.pth")
        return tmp_path / "w.pth"

    state = net.state_dict()
    with pytest.raises(Incompatible, match="holds a resnet18, not a resnet50"):
        begin(f"ResNet50_Weights.SENTINEL2_ALL_MOCO={file}")
    with pytest.raises(Incompatible, match="1 of 120 tensors of resnet18 are missing"):
        begin(f"{NAME}={saved({k: v for k, v in state.items() if k != 'bn1.weight'})}")
    with pytest.raises(Incompatible, match=r"holds extra\.weight, which resnet18 has not"):
        begin(f"{NAME}={saved({**state, 'extra.weight': torch.ones(2)})}")
    with pytest.raises(Incompatible, match="not finite"):
        begin(f"{NAME}={saved({**state, 'bn1.bias': torch.full((64,), np.nan)})}")
    with pytest.raises(Incompatible, match="the weights read"):  # two bands in the file, 13 in torchgeo's entry
        begin(f"{NAME}={saved({**state, 'conv1.weight': torch.ones(64, 2, 7, 7)})}")
    with pytest.raises(Absent, match="absent here"):
        begin(f"{NAME}={tmp_path / 'nowhere.pth'}")


def test_names(file):
    with pytest.raises(RequestError, match="SENTINEL2_ALL_MOCO"):
        begin("ResNet18_Weights.SENTINEL2_ALL_MOKO")
    with pytest.raises(Incompatible, match="is a swin_v2_t"):
        begin("Swin_V2_T_Weights.SENTINEL2_SI_MS_SATLAS")
    with pytest.raises(Incompatible, match="does not say which bands"):
        begin("ResNet50_Weights.FMOW_RGB_GASSL")
    assert located(f"torchgeo:{NAME}=w.pth", file.parent) == f"torchgeo:{NAME}={file.parent / 'w.pth'}"
    assert located(f"torchgeo:{NAME}", file.parent) == f"torchgeo:{NAME}"


def test_a_study_calls_them_by_name_without_folders(file):
    from unlabeled.core.studies.starts import title

    assert title(f"torchgeo:{NAME}+any-normaliser={file}") == f"torchgeo:{NAME}+any-normaliser=moco.pth"
    assert title(f"torchgeo:{NAME}") == f"torchgeo:{NAME}"


def test_without_torchgeo_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchgeo.models", None)
    with pytest.raises(RequestError, match=r"pip install 'unlabeled-earth\[torchgeo\]'"):
        begin(NAME)


def test_what_torch_fetched_before_is_used_and_else_the_file_is_named(net, tmp_path, monkeypatch):
    monkeypatch.setattr(hub, "get_dir", lambda: str(tmp_path))

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(hub, "download_url_to_file", refuse)
    kept = ResNet18_Weights.SENTINEL2_ALL_MOCO.url.rpartition("/")[2]
    with pytest.raises(Absent, match=f"bring the file {kept} to this machine and name it, as torchgeo:{NAME}=FILE"):
        begin(NAME)
    torch.save(net.state_dict(), tmp_path / "checkpoints" / kept)
    with torch.no_grad():
        torch.testing.assert_close(ours(begin(NAME), pixels()), net(pixels()), **ROUNDING)


# the guard


@pytest.mark.parametrize(("unit", "source"), [("1", "sentinel2-l1c"), ("DN", "image")])
def test_moco_under_standardisation_is_refused(file, unit, source):
    """The published case: EuroSAT kNN of MoCo 94.1 under its own x / 10000, 65.8 under z-scores (Corley et al. 2024)."""
    for normaliser in ("standard", "ssl4eo-s12"):
        with pytest.raises(Incompatible, match=r"saw B1 as .* set data\.normaliser: div10000"):
            begin(f"{NAME}={file}", spec(unit=unit, normaliser=normaliser, source=source))
    right = begin(f"{NAME}={file}", spec(unit=unit, source=source))
    forced = begin(f"{NAME}+any-normaliser={file}", spec(unit=unit, normaliser="standard", source=source))
    assert forced.report.start["start"].endswith("+any-normaliser")
    assert any("never have seen" in line for line in forced.report.adapted)
    torch.testing.assert_close(ours(forced, pixels()), ours(right, pixels()))


def test_no_normaliser_is_right_for_reflectance_and_wrong_for_digital_numbers(file):
    begin(f"{NAME}={file}", spec(normaliser="none"))
    with pytest.raises(Incompatible, match=r"makes \(x - 0\) / 1 of it"):
        begin(f"{NAME}={file}", spec(unit="DN", normaliser="none"))


def test_zscored_weights_ask_for_zscores():
    """torchgeo's constants are of another subset of SSL4EO-S12 than ours; within a tenth of a deviation they are one."""
    with pytest.raises(Incompatible, match=r"set data\.normaliser: ssl4eo-s12, or"):
        begin("ResNet50_Weights.SENTINEL2_ALL_SOFTCON")


def test_ssl4eo_radar_weights_ask_for_their_own_encoding_not_torchgeos():
    """torchgeo hands out a z-score; the authors trained on mean +- 2 deviations as [0, 1]: at -12.548 dB that is 0.5."""
    radar = spec(("VV", "VH"), "dB", "none", "sentinel1")
    with pytest.raises(Incompatible, match=r"set data\.normaliser: ssl4eo-s1,"):
        begin("ResNet50_Weights.SENTINEL1_GRD_MOCO", radar)
    entry = ResNet50_Weights.SENTINEL1_GRD_MOCO
    wanted = expected(entry, ("VV", "VH"), SENSORS["sentinel1"], radar, "x")
    np.testing.assert_allclose((-12.548 - wanted.offset[0]) / wanted.scale[0], 0.5, atol=1e-9)
    with pytest.raises(Incompatible, match="reads dB, the data are in power"):
        begin("ResNet50_Weights.SENTINEL1_GRD_MOCO", spec(("VV", "VH"), "power", "none", "sentinel1"))


@pytest.mark.parametrize(
    ("entry", "bands"),
    [
        (ResNet18_Weights.SENTINEL2_ALL_MOCO, S2),
        (ResNet18_Weights.SENTINEL2_RGB_SECO, ("B4", "B3", "B2")),  # three Normalize in a row
        (ResNet50_Weights.SENTINEL2_ALL_SOFTCON, S2),
    ],
)
def test_expected_constants_are_torchgeos_own_transform(entry, bands):
    """On an image of the final size, where its Resize and CenterCrop change nothing but the border."""
    one = spec(bands, "DN", "none", "image")
    found = expected(entry, bands, SENSORS["sentinel2-l1c"], one, "x")
    level = torch.rand(1, len(bands), 1, 1, generator=torch.Generator().manual_seed(0)) * 4000
    image = level.expand(1, -1, 300, 300)
    theirs = entry.transforms(image.clone())[0, :, 0, 0].double().numpy()
    mine = (level.flatten().double().numpy() - found.offset) / found.scale
    np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-5)
    assert pretraining_size(entry) == entry.transforms(image.clone()).shape[-1] == 224


def test_size_of_every_entry_is_known_or_none():
    assert pretraining_size(ViTSmall16_Weights.LANDSAT_TM_TOA_MOCO) == 224
    assert pretraining_size(ResNet50_Weights.SENTINEL2_ALL_CLOSP) is None


# out


def bundle(path, name, **options):
    """An earth bundle of this encoder, as if it came from a run on 64 x 64 windows."""
    encoder = shaken(make_encoder(name, options, domain, {"x": spec(("B2", "B3", "B4", "B8"))}, 0))
    recipe = Recipe(
        domain="earth",
        data=Data(path="nowhere", window=(640.0, 640.0), normaliser="div10000"),
        method=Named(name="simclr"),
        encoder=Named(**encoder.named),
    )
    return encoder, save_bundle(
        path, encoder, recipe, ["h1"], {"records": 1, "items": 1, "sha256": "0" * 64}, {"steps": 1}
    )


RELOAD = """
import json, sys
sys.modules["unlabeled"] = None  # any import of ours fails
import torch
from pathlib import Path
from safetensors.torch import load_file
from torchgeo.models import get_model
from torchvision.transforms.v2 import Normalize

folder = Path(sys.argv[1])
about = json.loads((folder / "torchgeo.json").read_text())
assert about["bands"] == ["B2", "B3", "B4", "B8"] and about["units"] == ["1"] * 4 and about["licence"] is None
assert about["transforms"]["sentinel2-l1c"] == {"mean": [0.0] * 4, "std": [1.0] * 4}
model = get_model(about["model"], **about["arguments"]).eval()
model.load_state_dict(load_file(folder / about["weights"]))
kept = load_file(folder / "fingerprint.safetensors")
normalise = Normalize(**about["transforms"]["sentinel2-l1c"])
with torch.inference_mode():
    found = model(normalise(kept["values"]))
    print(float((found - kept["pooled"]).abs().max() / kept["pooled"].abs().max()))
"""


@pytest.mark.parametrize(
    ("name", "options"),
    [("timm", {"model": "resnet18"}), ("tokens", {"width": 48, "depth": 2, "heads": 3, "patch": (8, 8), "cls": True})],
)
def test_torchgeo_alone_gives_the_same(tmp_path, name, options):
    """In a process where nothing of ours can be imported; the bundle's own answer lies beside the weights."""
    encoder, path = bundle(tmp_path / "bundle", name, **options)
    report = export(path, "torchgeo", tmp_path / "out")
    assert report["difference"] < report["tolerance"] and any("licence" in line for line in report["left_out"])
    done = subprocess.run([sys.executable, "-c", RELOAD, tmp_path / "out"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-4
    kept = load_file(tmp_path / "out" / "fingerprint.safetensors")
    torch.testing.assert_close(ours(encoder, kept["values"]), kept["pooled"], rtol=1e-5, atol=1e-5)


def test_transform_is_the_normaliser():
    """Normalize(mean, std) of torchvision on digital numbers, against the contract's own arithmetic."""
    one = spec(("B2", "B8"), "DN", "ssl4eo-s12", "image")
    x = torch.tensor([1390.8 + 850.3, 2299.9]).view(1, 2, 1, 1)
    found = Normalize(**transforms(one)["image"])(x).flatten()
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0]), rtol=0, atol=1e-4)


def test_what_torchgeo_has_no_factory_for_is_refused(tmp_path):
    _, path = bundle(tmp_path / "bundle", "timm", model="resnet34")
    with pytest.raises(Incompatible, match="not for this resnet34; --to timm holds it"):
        export(path, "torchgeo", tmp_path / "out")
    with pytest.raises(RequestError, match=r"--to: .*torchgeo"):
        export(path, "torchgoe", tmp_path / "out")
    assert not (tmp_path / "out").exists()
