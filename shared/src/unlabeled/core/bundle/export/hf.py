"""transformers: a folder that `AutoModel.from_pretrained(FOLDER, trust_remote_code=True)` loads without our code."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unlabeled.core.bundle.export.whole import TOKENS, Whole, Written, plain
from unlabeled.core.contracts import Incompatible
from unlabeled.core.files import write_json
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder

CODE = Path(__file__).with_name("modeling_unlabeled.py")
CONVNET = ("channels", "kernels", "strides", "norm")
USE = """
from transformers import AutoModel

model = AutoModel.from_pretrained('.', trust_remote_code=True).eval()
out = model(values)  # and valid=..., where values are missing
out.pooler_output, out.last_hidden_state
"""


def write(whole: Whole, folder: Path, size: tuple[int, ...] | None) -> Written:
    spec = whole.encoder.input_spec
    config = {
        "architectures": ["UnlabeledModel"],
        "model_type": "unlabeled-encoder",
        "auto_map": {
            "AutoConfig": f"{CODE.stem}.UnlabeledConfig",
            "AutoModel": f"{CODE.stem}.UnlabeledModel",
        },
        "torch_dtype": "float32",
        "rank": whole.rank,
        "in_channels": spec.width,
        "spacing": None if spec.spacing is None else list(spec.spacing),
        **_sizes(whole),
    }
    write_json(folder / "config.json", config)
    write_json(
        folder / "preprocessor_config.json",
        {
            "values": "(value - offset) / scale of the item's source, per channel; float32",
            **{k: v for k, v in spec.model_dump(mode="json").items() if k != "convert"},
        },
    )
    save_file(_named(whole), folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(CODE, folder / CODE.name)

    def answer(given: Mapping[str, Tensor]) -> Tensor:
        from unlabeled.core.bundle.export.modeling_unlabeled import UnlabeledModel

        model: nn.Module = UnlabeledModel.from_pretrained(folder)
        model.eval()
        with torch.inference_mode():
            pooled: Tensor = model(**given).pooler_output
        return pooled

    return Written(answer, use=USE)


def _sizes(whole: Whole) -> dict[str, Any]:
    encoder = whole.encoder
    if isinstance(encoder, TokenEncoder):
        sizes = plain(encoder.options, TOKENS)
        scale = list(encoder.scale[whole.name])
        return {"kind": "tokens", **sizes, "patch": list(encoder.patch[whole.name]), "position_scale": scale}
    if isinstance(encoder, ConvNet):
        return {"kind": "convnet", **plain(encoder.options, CONVNET)}
    raise Incompatible(
        f"transformers' code is written for tokens and convnet, this is a {type(encoder).__name__}; "
        "--to timm, onnx or torch hold it"
    )


def _named(whole: Whole) -> dict[str, Tensor]:
    """Our tensors under the names of the shipped code."""
    state = {}
    for name, value in whole.encoder.state_dict().items():
        state[name.replace(f"project.{whole.name}.", "project.", 1)] = value.contiguous().clone()
        if name.endswith(".running_mean"):
            state[name.replace("running_mean", "num_batches_tracked")] = torch.zeros((), dtype=torch.int64)
    return state
