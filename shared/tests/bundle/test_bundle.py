"""What a bundle says and refuses: every broken, swapped or hostile one is an error of one sentence, and nothing runs."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unlabeled.core.bundle import load_bundle, read_bundle, save_bundle
from unlabeled.core.contracts import Incompatible, RequestError, UnlabeledError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.contracts.recipe import Data, Named, Recipe, Trainer
from unlabeled.core.files import sha256
from unlabeled.core.testing.bundles import made, make_bundle, spec

CONVNET = {"channels": [4, 6], "kernels": [3, 3], "strides": [2, 2]}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return make_bundle(tmp_path / "bundle", made("convnet", {"scan": spec(1)}, **CONVNET))


def rewrite(bundle: Path, change, honest: bool = False) -> None:
    """Change the weights; honest: with a `bundle.json` that names the new file."""
    file = bundle / "encoder.safetensors"
    state = load_file(file)
    change(state)
    save_file(state, file)
    if honest:
        edit(bundle, lambda about: about.update(sha256=sha256(file)))


def edit(bundle: Path, change) -> None:
    file = bundle / "bundle.json"
    about = json.loads(file.read_text())
    change(about)
    file.write_text(json.dumps(about))


def refused(bundle: Path, says: str, kind: type[UnlabeledError] = Incompatible) -> None:
    with pytest.raises(kind, match=says) as error:
        load_bundle(bundle)
    assert "\n" not in str(error.value)


def test_round_trip(bundle: Path) -> None:
    encoder = load_bundle(bundle)
    original = made("convnet", {"scan": spec(1)}, **CONVNET)
    assert all(encoder.state_dict()[k].equal(v) for k, v in original.state_dict().items())
    assert str(encoder.report) == "10 of 10 tensors matched"
    assert encoder.named == original.named and not encoder.training
    (bundle / "README.md").write_text("anything")
    (bundle / "more.pkl").write_bytes(b"\x80")
    load_bundle(bundle)


def test_inputs_come_back_in_their_order(tmp_path: Path) -> None:
    """An encoder puts its inputs after one another and gives each place a vector: sorted by name they would be exchanged."""
    options = {"width": 24, "heads": 2, "depth": 1, "patch": [8]}
    original = made("tokens", {"scan": spec(1), "map": spec(1)}, **options)
    encoder = load_bundle(make_bundle(tmp_path / "bundle", original))
    assert list(encoder.specs) == ["scan", "map"]
    assert encoder.state_dict()["input_embedding"].equal(original.state_dict()["input_embedding"])


def test_the_encoder_as_built_is_kept(tmp_path: Path) -> None:
    """All options, also those left at their defaults, and the scale of the positions that was in use."""
    options = {"width": 24, "heads": 2, "depth": 1, "patch": [8]}
    path = make_bundle(tmp_path / "bundle", made("tokens", {"scan": spec(1)}, **options))
    about = read_bundle(path).about
    assert about["encoder"]["position_scale"] == {"scan": [4.0]} and about["encoder"]["mlp_ratio"] == 4.0
    assert about["start"] == {"start": "random"}


@pytest.mark.parametrize(
    "options",
    [
        {"positions": "rope", "cls": True},
        {"positions": "none"},
        {"causal": [1], "positions": "rope"},
        {"causal": [4]},
        {"patch": [1], "vocabulary": [7, 5]},
        {"patch": {"scan": [1]}, "vocabulary": {"scan": [7, 5]}, "causal": [2]},
    ],
)
def test_every_kind_of_token_encoder_comes_back(tmp_path: Path, options) -> None:
    encoder = made("tokens", {"scan": spec(1)}, **{"width": 24, "heads": 2, "depth": 1, "patch": [8], **options})
    again = load_bundle(make_bundle(tmp_path / "bundle", encoder))
    assert again.options == encoder.options and again.named == encoder.named
    values = torch.randint(0, 7, (2, 2, 40), generator=torch.Generator().manual_seed(0)).float()
    x = Dense(values, torch.ones(2, 1, 40, dtype=torch.bool), torch.full((2, 1), 0.5))
    with torch.no_grad():
        assert torch.equal(again({"scan": x}).tokens, encoder({"scan": x}).tokens)


def cut(bundle: Path) -> None:
    file = bundle / "encoder.safetensors"
    file.write_bytes(file.read_bytes()[:-9])


def flip(bundle: Path) -> None:
    file = bundle / "encoder.safetensors"
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(bytes(content))


def swap(bundle: Path) -> None:
    other = make_bundle(bundle.parent / "other", made("convnet", {"scan": spec(1)}, seed=1, **CONVNET))
    shutil.copy(other / "encoder.safetensors", bundle)


def gone(bundle: Path) -> None:
    (bundle / "encoder.safetensors").rename(bundle / "encoder.pt")


@pytest.mark.parametrize("harm", [cut, flip, swap, gone])
def test_other_weights_are_seen_by_their_hash(bundle: Path, harm) -> None:
    harm(bundle)
    refused(bundle, "missing or not the file bundle.json was written with; copy the bundle again")


def test_weights_swapped_with_their_hash_are_seen_by_their_output(bundle: Path) -> None:
    swap(bundle)
    edit(bundle, lambda about: about.update(sha256=sha256(bundle / "encoder.safetensors")))
    refused(bundle, "the output differs")


def not_finite(state):
    state["convs.0.weight"].view(-1)[0] = float("nan")


def wider(state):
    state["convs.0.weight"] = torch.zeros(5, 2, 3)


def whole_numbers(state):
    state["convs.0.weight"] = state["convs.0.weight"].long()


def renamed(state):
    state["../../escape"] = state.pop("convs.0.weight")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (not_finite, "convs.0.weight holds values that are not finite"),
        (wider, "reshaped: convs.0.weight"),
        (whole_numbers, "reshaped: convs.0.weight"),
        (renamed, "missing: convs.0.weight; unexpected: ../../escape"),
    ],
)
def test_tensors_that_do_not_fit(bundle: Path, change, says: str) -> None:
    rewrite(bundle, change, honest=True)
    refused(bundle, says)


class Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_no_pickle_runs(bundle: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    state = {**load_file(bundle / "encoder.safetensors"), "evil": Canary(canary)}
    for name in ("encoder.pt", "encoder.pkl", "encoder.safetensors"):
        (bundle / name).write_bytes(pickle.dumps(state))
    refused(bundle, "copy the bundle again")
    edit(bundle, lambda about: about.update(sha256=sha256(bundle / "encoder.safetensors")))
    refused(bundle, "cannot be read")
    torch.save(state, bundle / "encoder.safetensors")
    edit(bundle, lambda about: about.update(sha256=sha256(bundle / "encoder.safetensors")))
    refused(bundle, "cannot be read")
    assert not canary.exists()
    pickle.loads((bundle / "encoder.pt").read_bytes())  # the canary does sing where it is let
    assert canary.exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        (2**62).to_bytes(8, "little") + b"{}",
        (2**24).to_bytes(8, "little") + b" " * 2**10,
        (60).to_bytes(8, "little")
        + b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4]}}'[:60]
        + b"\0" * 4,
    ],
)
def test_hostile_headers(bundle: Path, content: bytes) -> None:
    (bundle / "encoder.safetensors").write_bytes(content)
    edit(bundle, lambda about: about.update(sha256=sha256(bundle / "encoder.safetensors")))
    refused(bundle, "cannot be read")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda a: a.update(format=99), "format 99"),
        (lambda a: a.pop("fingerprint"), "damaged"),
        (lambda a: a.update(encoder="convnet"), "damaged"),
        (lambda a: a.update(encoder={"name": "os:system"}), "cannot be built here"),
        (lambda a: a["encoder"].update(channels=[2**40, 6]), "cannot be built here"),
        (lambda a: a["encoder"].update(channels=["x", 6]), "cannot be built here"),
        (lambda a: a["encoder"].update(extra=1), "'extra' is unknown"),
        (lambda a: a.update(domain="../../etc"), "not installed"),
        (lambda a: a["inputs"]["scan"].update(axes=["a", "b", "c", "d"]), "damaged|cannot be built"),
        (lambda a: a.update(inputs=[]), "damaged"),
        (lambda a: a.update(inputs={}), "damaged"),
        (lambda a: a["inputs"].update({"../x": a["inputs"].pop("scan")}), "differs|matched|cannot be built"),
        (lambda a: a.update(recipe={}), "damaged"),
        (lambda a: a["recipe"]["data"].update(window="wide"), "damaged"),
        (lambda a: a["recipe"]["evaluation"].update(neighbours=0), "damaged"),
        (lambda a: a.update(groups=None), "damaged"),
        (lambda a: a.update(fingerprint=[[0.0] * 12] * 2), "the output differs"),
        (lambda a: a.update(fingerprint=[[0.0] * 3]), "the output differs"),
        (lambda a: a.update(fingerprint="none"), "the output differs"),
    ],
)
def test_a_changed_contract(bundle: Path, change, says: str) -> None:
    edit(bundle, change)
    refused(bundle, says)


@pytest.mark.parametrize("text", ["", "[]", "null", "{" * 10, "[" * 100_000, '{"format": 1}', "\udcff"])
def test_json_that_is_none(bundle: Path, text: str) -> None:
    (bundle / "bundle.json").write_bytes(text.encode(errors="surrogateescape"))
    refused(bundle, "damaged")


def test_what_is_no_bundle(tmp_path: Path) -> None:
    refused(tmp_path, "holds no bundle.json", RequestError)
    refused(tmp_path / "nowhere", "holds no bundle.json", RequestError)


def test_addresses_of_loggers_stay_at_home(bundle: Path, tmp_path: Path) -> None:
    loggers = (Named(name="mlflow", tracking_uri="http://me:secret@host.example", save_dir="/home/me"),)
    recipe = Recipe(
        domain="plain",
        data=Data(path=tmp_path),
        method=Named(name="simclr", teacher=str(tmp_path / "theirs")),
        encoder=Named(name="convnet"),
        trainer=Trainer(loggers=loggers),
    )
    encoder, counts = load_bundle(bundle), {"records": 3, "items": 9, "sha256": "0" * 64}
    out = save_bundle(tmp_path / "out", encoder, recipe, ["h1"], counts, {})
    raw = b"".join(f.read_bytes() for f in out.iterdir())
    assert b"theirs" in raw
    for word in ("secret", "host.example", "/home/me", str(tmp_path)):
        assert word.encode() not in raw


def test_the_card(tmp_path: Path) -> None:
    start = {"start": "timm:vit", "sha256": "ab" * 32}
    encoder = made("convnet", {"scan": spec(1, units=("g", "mV"))}, **CONVNET)
    card = (make_bundle(tmp_path / "bundle", encoder, start=start) / "README.md").read_text()
    for words in (
        "begun from timm:vit (SHA-256 abab",
        "3 records of 2 groups (9 items)",
        "step 0.5 mm): u [g], v [mV]",
        "last loss: 1.25",
        "load_bundle('.')",
        "unlabeled export",
        "No licence is stated",
        "and of the weights it began from",
    ):
        assert words in card, words
    plain = (make_bundle(tmp_path / "plain", encoder) / "README.md").read_text()
    assert "begun from random weights" in plain and "weights it began from" not in plain
