"""One-shot pruning by size: oracles on nets of known weights, and what `export --sparsity` leaves."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from unlabeled.core.bundle import load_bundle
from unlabeled.core.bundle.export import export
from unlabeled.core.bundle.export.sparsity import curve, matrices
from unlabeled.core.bundle.fingerprint import fixed_inputs
from unlabeled.core.cli.main import app
from unlabeled.core.cli.shell import run
from unlabeled.core.nn.base import Encoder, Features
from unlabeled.core.testing.bundles import made, make_bundle, spec


class Linear(Encoder):
    """pooled = W x of the first cells of its input: W the numbers 1 ... 12, in rows of four."""

    def __init__(self) -> None:
        super().__init__({"x": spec(1)}, 3, 3)
        self.map = nn.Linear(4, 3)
        with torch.no_grad():
            self.map.weight.copy_(torch.arange(1.0, 13.0).view(3, 4) * torch.tensor([1.0, -1.0, 1.0, -1.0]))
            self.map.bias.zero_()

    def forward(self, inputs):
        pooled = self.map(inputs["x"].values[:, 0, :4])
        return Features(pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool), pooled)


def test_a_linear_map() -> None:
    net, inputs = Linear().eval(), fixed_inputs({"x": spec(1)})
    found = curve(net, [inputs], (0.0, 0.25, 0.5, 1.0))
    none, quarter, half, all_of_it = found["curve"]
    assert (none["cosine"], none["error"], none["zeros"]) == (pytest.approx(1), 0, 0)
    # nothing is left: features of 0, whose cosine is 0, and an error of all
    assert (all_of_it["cosine"], all_of_it["error"], all_of_it["zeros"]) == (0, pytest.approx(1), 12)
    assert (found["weights"], found["items"]) == (12, 2)
    # the three smallest of twelve are 1, 2 and 3; by hand
    w, x = net.map.weight.detach().double().clone(), inputs["x"].values[:, 0, :4].double()
    before = x @ w.T
    w[0, :3] = 0
    after = x @ w.T
    assert quarter["zeros"] == 3 and half["zeros"] == 6
    assert quarter["error"] == pytest.approx(float((after - before).norm() / before.norm()), rel=1e-5)
    assert quarter["cosine"] == pytest.approx(float(torch.cosine_similarity(before, after, dim=1).mean()), rel=1e-5)


def test_the_knee_is_the_last_share_before_the_limit_is_crossed() -> None:
    net, inputs = Linear().eval(), fixed_inputs({"x": spec(1)})
    cosines = {p["share"]: p["cosine"] for p in curve(net, [inputs])["curve"]}
    for limit in (0.99, 0.9, 0.5, 1.5):
        stays = [s for s in cosines if all(cosines[t] >= limit for t in cosines if t <= s)]
        assert curve(net, [inputs], limit=limit)["knee"] == (max(stays) if stays else None)
    # the order in which shares are asked for does not matter
    assert curve(net, [inputs], (0.9, 0.0, 0.3))["knee"] == curve(net, [inputs], (0.0, 0.3, 0.9))["knee"]


NETS = {
    "tokens": {"width": 24, "depth": 2, "heads": 2, "patch": [4], "positions": "learned", "grid": [16], "cls": True},
    "convnet": {"channels": [6, 8], "kernels": [5, 3], "strides": [2, 2]},
}


@pytest.mark.parametrize("name", NETS)
def test_only_matrices_are_pruned_all_together_and_not_in_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from unlabeled.core.bundle.export import sparsity

    net = made(name, {"x": spec(1)}, **NETS[name])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    states = []
    kept = sparsity._features

    def watched(encoder, inputs):
        states.append({k: v.clone() for k, v in encoder.state_dict().items()})
        return kept(encoder, inputs)

    monkeypatch.setattr(sparsity, "_features", watched)
    found = curve(net, [fixed_inputs(net.specs)], (0.0, 0.3, 0.7))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    pruned = {f"{at}.weight" for at, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv1d)}
    assert len(pruned) == len(matrices(net)) and found["weights"] == sum(before[k].numel() for k in pruned)
    size = torch.cat([before[k].abs().flatten() for k in pruned])
    for share, state in zip((0.3, 0.7), states[2:], strict=True):
        limit = size.sort().values[round(share * len(size)) - 1]
        for k, v in state.items():
            expected = torch.where(before[k].abs() <= limit, 0, before[k]) if k in pruned else before[k]
            assert torch.equal(v, expected), k
        zeros = sum(int((state[k] == 0).sum()) for k in pruned)
        assert zeros == round(share * len(size))
    # the smallest of all, and not of each: shares of layers differ
    shares = {round(float((states[2][k] == 0).float().mean()), 2) for k in pruned}
    assert len(shares) > 1


def test_export_writes_and_prints_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "bundle", made("convnet", {"x": spec(1)}, **NETS["convnet"]))
    hashes = {p.name: p.read_bytes() for p in bundle.iterdir()}
    assert run(app, ["export", str(bundle), "--to", "hf", "-o", str(tmp_path / "out"), "--sparsity"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "weights at 0 cosine error rank" in text and "0% 1.0000 0.0000" in text and "noise" in text
    found = json.loads((tmp_path / "out/sparsity.json").read_text())
    assert [p["share"] for p in found["curve"]] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert found["items"] == 2 and "noise" in found["on"]
    assert {p.name: p.read_bytes() for p in bundle.iterdir()} == hashes
    # real inputs are given as batches
    batch = {"x": fixed_inputs({"x": spec(1)}, (128,))["x"]}
    report = export(bundle, "hf", tmp_path / "other", sparsity=[batch, batch])
    assert report["sparsity"]["items"] == 4 and report["sparsity"]["on"] == "records of the given folder"
    encoder = load_bundle(bundle)
    assert report["sparsity"]["curve"] == curve(encoder, [batch, batch])["curve"]


def test_on_without_sparsity_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "bundle", made("convnet", {"x": spec(1)}, **NETS["convnet"]))
    words = ["export", str(bundle), "--to", "hf", "-o", str(tmp_path / "out"), "--on", str(tmp_path)]
    assert run(app, words) == 2
    assert "--on names files for --sparsity" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
