"""timm: weights and a config that `timm.create_model('local-dir:FOLDER', pretrained=True)` loads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from unlabeled.core.bundle.export.whole import TOKENS, Whole, Written, plain
from unlabeled.core.bundle.foreign.conv import flat
from unlabeled.core.bundle.load import Bundle
from unlabeled.core.contracts import Incompatible, RequestError
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.files import write_json
from unlabeled.core.nn.backbone import TimmBackbone
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.timm_vit import to_timm
from unlabeled.core.tokens.patches import grid_coords
from unlabeled.core.tokens.positions import interpolate, sincos

BASE = "vit_base_patch16_224"  # every size of it is overridden
WEIGHTS = "model.safetensors"
USE = (
    "import timm\n\n"
    "model = timm.create_model('local-dir:.', pretrained=True).eval()\n"
    "pooled = model(values)  # all tokens: model.forward_features(values)"
)


def write(whole: Whole, folder: Path, size: tuple[int, ...] | None) -> Written:
    encoder = whole.encoder
    if isinstance(encoder, TimmBackbone):
        return net(encoder, folder)
    if not isinstance(encoder, TokenEncoder) or whole.rank != 2:
        raise Incompatible(
            f"timm holds plain ViTs of images and its own nets, this is a {type(encoder).__name__} over "
            f"{', '.join(encoder.input_spec.axes)}; --to hf, onnx or torch hold it"
        )
    ph, pw = encoder.patch[whole.name]
    height, width = _size(whole, encoder, size)
    if height % ph or width % pw:
        raise RequestError(f"--size {height},{width} is no multiple of the patch {ph},{pw}; choose one that is")
    grid = (height // ph, width // pw)
    plain(encoder.options, TOKENS)
    options = encoder.options
    arguments = {
        "img_size": [height, width],
        "patch_size": [ph, pw],
        "in_chans": encoder.input_spec.width,
        "embed_dim": options.width,
        "depth": options.depth,
        "num_heads": options.heads,
        "mlp_ratio": options.mlp_ratio,
        "class_token": options.cls,
        "global_pool": "token" if options.pool == "cls" else "avg",
        "fc_norm": False,
    }
    save_file({n: t.contiguous().clone() for n, t in to_timm(tabled(encoder, whole, grid)).items()}, folder / WEIGHTS)
    write_json(folder / "config.json", config(BASE, arguments, (encoder.input_spec.width, height, width)))
    left_out = [f"other sizes than {height} x {width}: positions are a table, which timm interpolates where asked to"]
    if options.pool == "mean_max":
        left_out.append("the second half of the pooled features, the maximum over tokens")
    return Written(
        lambda given: answer(folder, given["values"]),
        use=USE,
        left_out=tuple(left_out),
        shape=(height, width),
        width=options.width if options.pool == "mean_max" else None,
    )


MAPS = (
    "import timm\n\n"
    "model = timm.create_model('local-dir:.', pretrained=True).eval()\n"
    "maps = model(values)\n"
    "pooled = maps[-1].mean((2, 3))"
)


def config(architecture: str, arguments: Mapping[str, Any], size: tuple[int, ...]) -> dict[str, Any]:
    """What timm reads beside the weights. Values come in normalised, so its own mean is 0 and its deviation 1."""
    return {
        "architecture": architecture,
        "num_classes": 0,
        "model_args": dict(arguments),
        "pretrained_cfg": {
            "input_size": list(size),
            "fixed_input_size": "img_size" in arguments,  # positions are a table; a net takes any size
            "mean": [0.0] * size[0],
            "std": [1.0] * size[0],
            "num_classes": 0,
        },
    }


def answer(folder: Path, values: Tensor) -> Tensor:
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.inference_mode():
        found: Any = model(values)
    pooled: Tensor = found[-1].mean((2, 3)) if isinstance(found, list) else found
    return pooled


def net(encoder: TimmBackbone, folder: Path) -> Written:
    """One of timm's own nets, as its maker of feature maps."""
    options, channels = encoder.options, encoder.input_spec.width
    state = timm.create_model(options.model, num_classes=0, in_chans=channels).state_dict()
    trained = {flat(name): value for name, value in encoder.net.state_dict().items()}
    rest = [name for name in state if flat(name) not in trained]
    save_file({n: trained.get(flat(n), value).contiguous().clone() for n, value in state.items()}, folder / WEIGHTS)
    stages = {} if options.stages is None else {"out_indices": list(range(options.stages))}
    size = (channels, *(max(64, 2 * s) for s in encoder.stride))
    write_json(
        folder / "config.json",
        config(options.model, {"in_chans": channels, "features_only": True, **stages}, size),
    )
    unused = f"{', '.join(rest)}: no part of the encoder, they hold timm's start values and are in no feature map"
    return Written(
        lambda given: answer(folder, given["values"]),
        use=MAPS,
        left_out=("masks: every value counts as valid", *([unused] if rest else [])),
    )


def _size(whole: Whole, encoder: TokenEncoder, size: tuple[int, ...] | None) -> tuple[int, int]:
    if size is not None:
        if len(size) != 2 or min(size) < 1:
            raise RequestError(f"--size {','.join(map(str, size))}: an image has a height and a width")
        return size[0], size[1]
    patch = encoder.patch[whole.name]
    if encoder.table is not None:
        return encoder.table.shape[0] * patch[0], encoder.table.shape[1] * patch[1]
    bundle: Bundle = encoder.bundle
    window = bundle.about["recipe"]["data"]["window"]
    if window is None:
        raise RequestError("timm's positions are a table for one size of image; name it, as --size 224,224")
    cells = [round(w / s / p) * p for w, s, p in zip(window, whole.spacing, patch, strict=True)]
    return cells[0], cells[1]


def tabled(encoder: TokenEncoder, whole: Whole, grid: tuple[int, int]) -> TokenEncoder:
    """The same encoder with its positions as a table over `grid`."""
    patch = encoder.patch[whole.name]
    coords = grid_coords(grid, patch, torch.tensor([whole.spacing]))
    position = encoder.position(whole.name, coords)
    with torch.no_grad():
        table = encoder.table
        place = sincos(position, encoder.token_width) if table is None else interpolate(table, position)
    options = {**encoder.options.model_dump(), "positions": "learned", "grid": grid}
    out = TokenEncoder(encoder.specs, validated(TokenEncoder.Options, options, "encoder"))
    out.load_state_dict({**encoder.state_dict(), "table": place[0].reshape(*grid, -1)})
    return out
