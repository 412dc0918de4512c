"""Write an export: whole or not at all, and only where it says what the encoder says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from unlabeled.core.bundle.card import fed, limits
from unlabeled.core.bundle.export.sparsity import Inputs, curve
from unlabeled.core.bundle.export.whole import Whole
from unlabeled.core.bundle.fingerprint import fixed_inputs
from unlabeled.core.bundle.load import load_bundle, read_bundle
from unlabeled.core.contracts import RequestError, RunFailed, load
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import nearest
from unlabeled.core.files import folder_atomic, free, write_json

HERE = "unlabeled.core.bundle.export"
FORMATS = {
    "timm": f"{HERE}.timm:write",
    "hf": f"{HERE}.hf:write",
    "onnx": f"{HERE}.onnx:write",
    "torch": f"{HERE}.torch:write",
}
NEEDS = {"hf": ("transformers",), "onnx": ("onnx", "onnxruntime", "onnxscript")}
TOLERANCE = 1e-4  # of the largest feature where that is above 1: another order of sums moves its last digits
REAL = "records of the given folder"
SYNTHETIC = "the fixed input of the fingerprint: two items of noise, nothing real"
LEFT_OUT = (
    "what the method had beside the encoder (projectors, predictors, teachers); a bundle never holds it",
    "the normaliser: its constants are in `contract.json` by source, and are applied before the values come in",
)


def export(
    bundle: str | Path,
    to: str,
    out: str | Path,
    size: Sequence[int] | None = None,
    sparsity: bool | Sequence[Inputs] = False,
) -> dict[str, Any]:
    """Write the encoder of a bundle to the folder `out` in the format `to`, and its report.

    to: timm, hf, onnx, torch, or one of the `exports` of the bundle's domain.

    size: of the images, in cells; only timm needs it, none: what the bundle was trained on.

    sparsity: also write `sparsity.json`, how far weights can be pruned (see `sparsity.curve`), on the fixed input, which is
    noise, or better on these batches of real items; the report has it too.

    Beside the format's own files: `contract.json` (what it may be fed), `fingerprint.safetensors` (a fixed input and
    what the encoder says to it), `fingerprint.json` (the same, short), `README.md`. What was written is read again and
    compared on that input. Raises RequestError (no such format, `out` is in use, a library is missing), Incompatible
    (the format cannot express this encoder), RunFailed (it does not say the same); then nothing is left behind.
    """
    out = Path(out)
    formats = {**FORMATS, **domain(read_bundle(Path(bundle)).about["domain"]).exports}
    if to not in formats:
        raise RequestError(f"--to: {nearest(to, list(formats))}")
    _installed(to)
    free(out)
    encoder = load_bundle(bundle)
    whole = Whole(encoder)
    with folder_atomic(out) as folder:
        written = load(formats[to])(whole, folder, None if size is None else tuple(size))
        dense = fixed(whole, written.shape)
        given = {"values": dense.values, **({"spacing": dense.spacing} if whole.asks_spacing else {})}
        with torch.inference_mode():
            expected = whole(*given.values())[0][:, : written.width]
        found = written.answer(given)
        difference = float((found - expected).abs().max()) if found.shape == expected.shape else float("inf")
        tolerance = TOLERANCE * max(1.0, float(expected.abs().max()))
        if not difference <= tolerance:
            raise RunFailed(
                f"the {to} export says something else than the bundle (by {difference:.2g}), so nothing was written; "
                "try another format, and tell us"
            )
        report = {
            "format": to,
            "difference": difference,
            "tolerance": tolerance,
            "left_out": [*LEFT_OUT, *_head(Path(bundle)), *written.left_out],
            "bundle_sha256": encoder.bundle.about["sha256"],
        }
        save_file({**_apart(given), "pooled": expected.contiguous()}, folder / "fingerprint.safetensors")
        pooled = [[float(f"{v:.7g}") for v in row[:16]] for row in expected.double().tolist()]
        write_json(folder / "fingerprint.json", {**report, "input": "fingerprint.safetensors", "pooled": pooled})
        write_json(folder / "contract.json", contract_of(encoder.bundle.about))
        if sparsity:
            report["sparsity"] = curve(encoder, [{whole.name: fixed(whole)}] if sparsity is True else sparsity)
            report["sparsity"]["on"] = SYNTHETIC if sparsity is True else REAL
            write_json(folder / "sparsity.json", report["sparsity"])
        (folder / "README.md").write_text(card(encoder.bundle.about, report, written.use), encoding="utf-8")
    return report


def _head(bundle: Path) -> list[str]:
    return ["the head of the fine-tuned model: an export is its encoder"] if (bundle / "model.json").is_file() else []


def _installed(to: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in NEEDS.get(to, ()) if find_spec(name) is None]
    if missing:
        raise RequestError(f"--to {to} needs {', '.join(missing)}; pip install 'unlabeled-core[export]'")


def fixed(whole: Whole, shape: tuple[int, ...] | None = None) -> Dense:
    """The input of the fingerprint, on a grid that the encoder cuts without a rest, or of a given shape."""
    made = fixed_inputs(whole.encoder.specs, shape or whole.shape)[whole.name]
    assert isinstance(made, Dense)
    return made


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: t.contiguous().clone() for name, t in tensors.items()}


def contract_of(about: Mapping[str, Any]) -> dict[str, Any]:
    """What the export may be fed, and where it comes from."""
    return {
        "inputs": about["inputs"],
        "values": "float, (batch, channel, ...grid), already normalised: (value - offset) / scale of the item's source",
        "domain": about["domain"],
        "method": about["recipe"]["method"]["name"],
        "start": about.get("start", {"start": "random"}),
        "bundle_sha256": about["sha256"],
    }


def card(about: Mapping[str, Any], report: Mapping[str, Any], use: str) -> str:
    """The model card of an export: the bundle's contract and limits, and how this format is loaded."""
    return "\n".join(
        [
            f"# {about['recipe']['method']['name']} encoder for {about['domain']}, as {report['format']}",
            "",
            f"- written from the bundle with SHA-256 {report['bundle_sha256']}",
            f"- checked: pooled features differ from the bundle's by {report['difference']:.1e} on the fixed input",
            "",
            "## Use",
            "",
            "```python",
            use.strip(),
            "```",
            "",
            "## Left out",
            "",
            *(f"- {line}" for line in report["left_out"]),
            "",
            *fed(about),
            "",
            *limits(about),
            "",
        ]
    )
