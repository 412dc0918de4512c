"""Exports say what the bundle says, in a process that cannot import us."""

import json
import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import unlabeled.core
from unlabeled.core.bundle import load_bundle
from unlabeled.core.bundle.export import export
from unlabeled.core.cli.main import app
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts import Incompatible, RequestError, RunFailed
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.testing.bundles import made, make_bundle, spec

RGB = ("red", "green", "blue")

# every option that changes the arithmetic is there once; 23 and 21 are widths that sincos fills with zeros
TOKENS = {
    1: {"width": 24, "depth": 2, "heads": 2, "patch": [8], "cls": True, "pool": "cls", "mlp_ratio": 3.0},
    2: {
        "width": 24,
        "depth": 2,
        "heads": 2,
        "patch": [4, 8],
        "positions": "learned",
        "grid": [6, 4],
        "pool": "mean_max",
    },
    3: {"width": 20, "depth": 1, "heads": 2, "patch": [8, 4, 8], "position_scale": [3.0, 2.5, 4.0], "cls": True},
}
CONVNET = {
    1: {"channels": [6, 8], "kernels": [5, 3], "strides": [2, 2]},
    2: {"channels": [6, 8], "kernels": [5, 3], "strides": [2, 1], "norm": "none"},
    3: {"channels": [4, 6], "kernels": [3, 3], "strides": [2, 2]},
}

ALONE = """
import sys, importlib.abc
class No(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "unlabeled":
            raise ImportError("an export stands alone")
sys.meta_path.insert(0, No())
import os, warnings, torch
from pathlib import Path
from safetensors.torch import load_file
torch.set_num_threads(1)
def answer(given):
{answer}
for folder in map(Path, {folders!r}):
    os.chdir(folder)
    given = load_file("fingerprint.safetensors")
    expected = given.pop("pooled")
    with torch.no_grad():
        found = torch.as_tensor(answer(given))
    print(folder.name, tuple(found.shape), float((found - expected).abs().max()))
    assert found.shape == expected.shape and torch.allclose(found, expected, rtol=0, atol=1e-4)
assert "unlabeled" not in sys.modules and "unlabeled.core" not in sys.modules
"""
ANSWERS = {
    "hf": """
    from transformers import AutoModel
    model, info = AutoModel.from_pretrained(".", trust_remote_code=True, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return model.eval()(**given).pooler_output
""",
    "onnx": """
    import onnxruntime
    session = onnxruntime.InferenceSession("encoder.onnx", providers=["CPUExecutionProvider"])
    numpy = {k: v.numpy() for k, v in given.items()}
    one = {k: v[:1] for k, v in numpy.items()}
    three = {k: v[[0, 1, 0]] for k, v in numpy.items()}
    pooled = session.run(["pooled"], numpy)[0]
    assert abs(session.run(["pooled"], one)[0] - pooled[:1]).max() < 1e-4
    assert abs(session.run(["pooled"], three)[0] - pooled[[0, 1, 0]]).max() < 1e-4
    return pooled
""",
    "torch": """
    return torch.export.load("encoder.pt2").module()(*[given[k] for k in ("values", "spacing") if k in given])[0]
""",
    "timm": """
    import timm
    found = timm.create_model("local-dir:.", pretrained=True).eval()(given["values"])
    return found[-1].mean((2, 3)) if isinstance(found, list) else found
""",
}


def alone(to: str, folders: list[Path], home: Path) -> None:
    code = ALONE.replace("{answer}", ANSWERS[to]).replace("{folders!r}", repr([str(f) for f in folders]))
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr


def images(**changes):
    return {"x": spec(2, RGB, **changes)}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bundles")
    out = {}
    for rank in (1, 2, 3):
        # the second one leaves the spacing to each item
        specs = {"scan": spec(rank, **({"spacing": None} if rank == 2 else {}))}
        for name, options in (("tokens", TOKENS[rank]), ("convnet", CONVNET[rank])):
            label = f"{name}{rank}"
            out[label] = make_bundle(root / label, made(name, specs, **options))
    return out


@torch.no_grad()
def other_sizes(to: str, folder: Path, encoder) -> None:
    """Three items on a grid of 5, 6 and 7 patches or strides, which is not the one it was traced with."""
    steps = encoder.patch["scan"] if hasattr(encoder, "patch") else encoder.stride
    torch.manual_seed(2)
    values = torch.randn(3, 2, *(n * s for n, s in zip((5, 6, 7), steps, strict=False)))
    spacing = encoder.input_spec.spacing
    step = torch.rand(3, len(steps)) + 0.2 if spacing is None else torch.tensor([spacing]).expand(3, -1)
    whole = Dense(values, torch.ones_like(values[:, :1], dtype=torch.bool), step)
    given = {"values": values, **({"spacing": step} if spacing is None and hasattr(encoder, "patch") else {})}
    if to == "torch":
        pooled, tokens = torch.export.load(folder / "encoder.pt2").module()(*given.values())
    else:
        session = onnxruntime.InferenceSession(folder / "encoder.onnx", providers=["CPUExecutionProvider"])
        found = session.run(["pooled", "tokens"], {k: v.numpy() for k, v in given.items()})
        pooled, tokens = map(torch.from_numpy, found)
    ours = encoder({"scan": whole})
    torch.testing.assert_close(pooled, ours.pooled, rtol=0, atol=1e-4)
    torch.testing.assert_close(tokens, ours.tokens, rtol=0, atol=1e-4)


ALL = [f"{name}{rank}" for rank in (1, 2, 3) for name in ("tokens", "convnet")]


@pytest.mark.parametrize(
    ("to", "names"),
    [
        ("hf", ALL),
        ("torch", ["tokens2"]),
        ("onnx", ["tokens2"]),
        pytest.param("torch", ALL, marks=pytest.mark.slow),
        pytest.param("onnx", ALL, marks=pytest.mark.slow),
    ],
)
def test_every_rank_reloads_alone(to: str, names: list[str], bundles: dict[str, Path], tmp_path: Path) -> None:
    """1-D, 2-D and 3-D, transformer and ConvNet: equal pooled features to 1e-4 in a process without us."""
    folders = []
    for name in names:
        bundle = bundles[name]
        report = export(bundle, to, tmp_path / name)
        assert report["difference"] <= 1e-4
        folders.append(tmp_path / name)
        # the answer of the file is the bundle's, not the export's own
        given = load_file(tmp_path / name / "fingerprint.safetensors")
        encoder = load_bundle(bundle)
        values = given["values"]
        rank = encoder.input_spec.rank
        step = given.get("spacing", torch.full((2, rank), 0.5))
        whole = Dense(values, torch.ones_like(values[:, :1], dtype=torch.bool), step)
        with torch.no_grad():
            ours = encoder({"scan": whole}).pooled
        torch.testing.assert_close(ours, given["pooled"], rtol=0, atol=1e-5)
        short = json.loads((tmp_path / name / "fingerprint.json").read_text())
        torch.testing.assert_close(torch.tensor(short["pooled"]), given["pooled"][:, :16], rtol=1e-5, atol=1e-6)
        assert ("spacing" in given) == (name == "tokens2")
        if to != "hf":
            other_sizes(to, tmp_path / name, encoder)
    alone(to, folders, tmp_path / "home")


def test_timm_reloads_alone(tmp_path: Path) -> None:
    """Computed positions as a table for the window (24 x 16 cells of half a millimetre), learned ones, and timm's nets."""
    patch = {"width": 24, "depth": 2, "heads": 2, "patch": [8, 4]}
    own = {
        "sincos": made("tokens", images(), **patch),
        "table": made("tokens", images(), **patch, positions="learned", grid=[3, 2], cls=True, pool="cls"),
        "halves": made("tokens", images(), **patch, pool="mean_max", position_scale=[3.0, 2.5]),
        "resnet": made("timm", {"x": spec(2)}, model="resnet10t"),
        "convnext": made("timm", images(), model="convnext_atto", stages=3),
    }
    shapes = {"sincos": (24, 16), "table": (24, 8), "halves": (16, 16)}
    reports = {}
    for name, encoder in own.items():
        bundle = make_bundle(tmp_path / "bundles" / name, encoder, window=(12.0, 8.0))
        reports[name] = export(bundle, "timm", tmp_path / name, (16, 16) if name == "halves" else None)
        given = load_file(tmp_path / name / "fingerprint.safetensors")
        values = given["values"]
        if name in shapes:
            assert tuple(values.shape[2:]) == shapes[name]
        with torch.no_grad():
            whole = Dense(values, torch.ones_like(values[:, :1], dtype=torch.bool), torch.full((2, 2), 0.5))
            ours = encoder({"x": whole}).pooled
        torch.testing.assert_close(ours[:, : given["pooled"].shape[1]], given["pooled"], rtol=1e-5, atol=1e-5)
    assert any("second half" in line for line in reports["halves"]["left_out"])
    assert any("head.norm.weight" in line for line in reports["convnext"]["left_out"])
    alone("timm", [tmp_path / name for name in own], tmp_path / "home")


def test_the_shipped_code_knows_what_is_missing(bundles: dict[str, Path], tmp_path: Path) -> None:
    """Invalid cells, and a grid that is no multiple of the patch, as ours: tokens and pooled features to 1e-5."""
    from unlabeled.core.bundle.export.modeling_unlabeled import UnlabeledModel

    for name in ("tokens2", "tokens3", "convnet1"):
        export(bundles[name], "hf", tmp_path / name)
        encoder = load_bundle(bundles[name])
        rank = encoder.input_spec.rank
        shape = (27, 30, 19)[:rank]
        torch.manual_seed(0)
        values, valid = torch.randn(3, 2, *shape), torch.rand(3, 1, *shape) < 0.8
        valid[0, :, 16:] = False
        valid[1] = False
        spacing = torch.rand(3, rank) + 0.5
        with torch.no_grad():
            ours = encoder({"scan": Dense(values, valid, spacing)})
            theirs = UnlabeledModel.from_pretrained(tmp_path / name).eval()(values, valid, spacing)
        torch.testing.assert_close(theirs.pooler_output, ours.pooled, rtol=0, atol=1e-5)
        torch.testing.assert_close(theirs.last_hidden_state, ours.tokens, rtol=0, atol=1e-5)
        assert not ours.pooled[1].any()


def test_what_lies_beside_an_export(bundles: dict[str, Path], tmp_path: Path) -> None:
    export(bundles["convnet1"], "hf", tmp_path / "out")
    names = {p.name for p in (tmp_path / "out").iterdir()}
    beside = {"README.md", "contract.json", "fingerprint.json", "fingerprint.safetensors"}
    assert names == beside | {"config.json", "model.safetensors", "modeling_unlabeled.py", "preprocessor_config.json"}
    about = json.loads((bundles["convnet1"] / "bundle.json").read_text())
    contract = json.loads((tmp_path / "out/contract.json").read_text())
    assert contract["inputs"] == about["inputs"] and contract["bundle_sha256"] == about["sha256"]
    facts = json.loads((tmp_path / "out/preprocessor_config.json").read_text())
    assert (facts["channels"], facts["spacing"], facts["unit"]) == (["u", "v"], [0.5], "mm")
    assert facts["normaliser"] == about["inputs"]["scan"]["normaliser"]
    card = (tmp_path / "out/README.md").read_text()
    assert about["sha256"] in card and "AutoModel" in card and "projectors" in card and "step 0.5 mm" in card


@pytest.mark.parametrize("to", ["hf", "onnx", "torch"])
def test_nothing_of_this_machine_is_in_an_export(to: str, bundles: dict[str, Path], tmp_path: Path) -> None:
    """torch keeps with every operation the files and lines it came from."""
    export(bundles["convnet1"], to, tmp_path / "out")
    here = [Path(torch.__file__).parents[1], Path(unlabeled.core.__file__).parents[3], tmp_path, Path.home()]
    files = [f for f in (tmp_path / "out").rglob("*") if f.is_file()]
    assert max(f.stat().st_size for f in files) > 5000
    for file in files:
        raw = file.read_bytes()
        assert not [p for p in here if f"{p}/".encode() in raw], file.name
        assert b"site-packages" not in raw, file.name


PACKED = spec(1, layout="packed", spacing=None)
PLAIN_TOKENS = {"width": 24, "depth": 1, "heads": 2}


@pytest.mark.parametrize(
    ("name", "specs", "options", "to", "says"),
    [
        ("tokens", {"x": PACKED}, PLAIN_TOKENS, "onnx", "one dense input"),
        ("tokens", {"a": spec(1), "b": spec(1)}, {**PLAIN_TOKENS, "patch": [4]}, "hf", "one dense input"),
        ("tokens", {"x": spec(1)}, {**PLAIN_TOKENS, "patch": [4]}, "timm", "--to hf, onnx or torch"),
        ("convnet", {"x": spec(2)}, CONVNET[2], "timm", "--to hf, onnx or torch"),
        ("timm", {"x": spec(2)}, {"model": "resnet10t"}, "hf", "--to timm, onnx or torch"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(name, specs, options, to, says, tmp_path) -> None:
    bundle = make_bundle(tmp_path / "bundle", made(name, specs, **options))
    with pytest.raises(Incompatible, match=says) as error:
        export(bundle, to, tmp_path / "out")
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


KINDS = {
    "rope": {"positions": "rope", "causal": [2, 1], "cls": True},
    "none": {"positions": "none"},
    "ids": {"patch": [1, 1], "vocabulary": [7, 5, 3], "causal": [1, 1]},
}


@pytest.mark.parametrize("to", ["hf", "timm"])
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"positions": "rope"}, "encoder.positions: rope"),
        ({"positions": "none"}, "encoder.positions: none"),
        ({"causal": [1, 1]}, "encoder.causal"),
        ({"vocabulary": [7, 5, 3], "patch": [1, 1]}, "encoder.vocabulary"),
    ],
)
def test_formats_that_know_no_such_encoder_say_so(to: str, options, says: str, tmp_path: Path) -> None:
    given = {**PLAIN_TOKENS, "patch": [8, 8], **options}
    bundle = make_bundle(tmp_path / "bundle", made("tokens", images(), **given), window=(16.0, 16.0))
    with pytest.raises(Incompatible, match=f"cannot express {says}") as error:
        export(bundle, to, tmp_path / "out")
    assert "\n" not in str(error.value) and "--to onnx or torch" in str(error.value)


@pytest.mark.parametrize("to", ["torch", "onnx"])
@pytest.mark.parametrize("kind", ["rope", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("none", "ids"))])
def test_formats_that_hold_every_encoder_do(to: str, kind: str, tmp_path: Path) -> None:
    """On whole numbers, which are ids too, and on other grids than the one it was traced with."""
    encoder = made("tokens", images(), **{**PLAIN_TOKENS, "patch": [4, 8], **KINDS[kind]})
    export(make_bundle(tmp_path / "bundle", encoder), to, tmp_path / "out")
    for rows, cells in ((2, (16, 16)), (3, (24, 32))):
        values = torch.randint(0, 7, (rows, 3, *cells), generator=torch.Generator().manual_seed(3)).float()
        if to == "torch":
            pooled, tokens = torch.export.load(tmp_path / "out" / "encoder.pt2").module()(values)
        else:
            session = onnxruntime.InferenceSession(tmp_path / "out/encoder.onnx", providers=["CPUExecutionProvider"])
            pooled, tokens = map(torch.from_numpy, session.run(["pooled", "tokens"], {"values": values.numpy()}))
        whole = Dense(values, torch.ones_like(values[:, :1], dtype=torch.bool), torch.full((rows, 2), 0.5))
        with torch.no_grad():
            ours = encoder({"x": whole})
        torch.testing.assert_close(pooled, ours.pooled, rtol=0, atol=1e-4)
        torch.testing.assert_close(tokens, ours.tokens, rtol=0, atol=1e-4)


def test_requests_that_make_no_sense(bundles: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    images_of = make_bundle(tmp_path / "bundle", made("tokens", images(), **PLAIN_TOKENS, patch=[8, 8]))
    with pytest.raises(RequestError, match="did you mean 'onnx'"):
        export(images_of, "onx", tmp_path / "out")
    with pytest.raises(RequestError, match="--size 224,224"):
        export(images_of, "timm", tmp_path / "out")
    with pytest.raises(RequestError, match="no multiple of the patch"):
        export(images_of, "timm", tmp_path / "out", (30, 32))
    with pytest.raises(RequestError, match="a height and a width"):
        export(images_of, "timm", tmp_path / "out", (32,))
    with pytest.raises(RequestError, match="exists; choose another folder"):
        export(images_of, "timm", images_of, (32, 32))
    with pytest.raises(RequestError, match="no bundle"):
        export(tmp_path, "timm", tmp_path / "out", (32, 32))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(RequestError, match=r"pip install 'unlabeled-core\[export\]'"):
        export(images_of, "onnx", tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def test_an_export_that_says_something_else_is_not_left_behind(bundles, tmp_path, monkeypatch) -> None:
    from unlabeled.core.bundle.export import hf

    named = hf._named

    def wrong(whole):
        state = named(whole)
        state["convs.0.weight"] = state["convs.0.weight"] + 0.01
        return state

    monkeypatch.setattr(hf, "_named", wrong)
    with pytest.raises(RunFailed, match="something else than the bundle"):
        export(bundles["convnet1"], "hf", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_command_line(bundles: dict[str, Path], tmp_path: Path, capsys) -> None:
    words = ["export", str(bundles["convnet1"]), "--to", "hf", "-o", str(tmp_path / "out")]
    assert run(app, words) == 0
    assert "left out" in capsys.readouterr().out
    assert (tmp_path / "out/config.json").is_file()
    assert run(app, words) == 2
    assert run(app, ["export", str(bundles["convnet1"]), "--to", "timm", "-o", str(tmp_path / "other")]) == 5
    assert not (tmp_path / "other").exists()
