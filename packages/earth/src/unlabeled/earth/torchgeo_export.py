"""`export --to torchgeo`: the weights as timm names them, and beside them what torchgeo's own weights carry.

torchgeo builds its ResNets and ViTs by timm, so the weights are those of `--to timm`. `torchgeo.json` adds the factory and
its arguments, bands, units, the normalising transform of each source, the size of the images, and a slot for the licence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from unlabeled.core.bundle.export import timm
from unlabeled.core.bundle.export.whole import Whole, Written
from unlabeled.core.contracts import Incompatible, InputSpec, RequestError
from unlabeled.core.files import write_json
from unlabeled.core.nn.backbone import TimmBackbone

NETS = ("resnet18", "resnet50", "resnet152")  # torchgeo's own factories of convolutional nets that timm makes
ABOUT = "torchgeo.json"
USE = """
import json
from safetensors.torch import load_file
from torchgeo.models import get_model
from torchvision.transforms.v2 import Normalize

about = json.load(open("torchgeo.json"))
model = get_model(about["model"], **about["arguments"]).eval()
model.load_state_dict(load_file(about["weights"]))
normalise = Normalize(**about["transforms"][SOURCE])  # of values in about["units"], bands in the order of about["bands"]
pooled = model(normalise(image))
"""


def write(whole: Whole, folder: Path, size: tuple[int, ...] | None) -> Written:
    """Raises Incompatible where torchgeo has no factory for the encoder, RequestError where torchgeo is not installed."""
    encoder = whole.encoder
    if isinstance(encoder, TimmBackbone) and (encoder.options.model not in NETS or encoder.options.stages is not None):
        raise Incompatible(
            f"torchgeo has factories for {', '.join(NETS)} with all their stages, not for this {encoder.options.model}; "
            "--to timm holds it"
        )
    _factory()
    written = timm.write(whole, folder, size)
    config = json.loads((folder / "config.json").read_text())
    arguments = {k: v for k, v in config["model_args"].items() if k != "features_only"}
    spec = encoder.input_spec
    write_json(
        folder / ABOUT,
        {
            "model": config["architecture"],
            "arguments": {**arguments, "num_classes": 0},
            "weights": timm.WEIGHTS,
            "bands": list(spec.channels),
            "units": list(spec.units),
            "gsd": spec.spacing and list(spec.spacing),
            "normaliser": spec.normaliser.method,
            "transforms": transforms(spec),
            "window": encoder.bundle.about["recipe"]["data"]["window"],
            "licence": None,
            "sha256": encoder.bundle.about["sha256"],
        },
    )
    slot = f"the licence of these weights, which nobody but you can give: write it into {ABOUT}"
    return replace(
        written, answer=lambda given: answer(folder, given["values"]), use=USE, left_out=(*written.left_out, slot)
    )


def transforms(spec: InputSpec) -> dict[str, Any]:
    """source -> mean and deviation of a `Normalize`, which does to values what the contract's normaliser does."""
    plain = {"": {"mean": [0.0] * spec.width, "std": [1.0] * spec.width}}
    constants = spec.normaliser.constants.items()
    return {source: {"mean": list(c.offset), "std": list(c.scale)} for source, c in constants} or plain


def answer(folder: Path, values: Tensor) -> Tensor:
    about: Mapping[str, Any] = json.loads((folder / ABOUT).read_text())
    model = _factory()(about["model"], **about["arguments"]).eval()
    model.load_state_dict(load_file(folder / about["weights"]))
    with torch.inference_mode():
        pooled: Tensor = model(values)
    return pooled


def _factory() -> Any:
    try:
        from torchgeo.models import get_model
    except ImportError as error:
        raise RequestError(f"--to torchgeo needs torchgeo ({error}); pip install 'unlabeled-earth[torchgeo]'") from None
    return get_model
