"""timm's Vision Transformer in and out of the token encoder.

The two name their parts alike but for three: timm's patch embedding is a convolution with channels first, its positions
are a flat list that may begin with the class token's, and its blocks have no common parent.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from unlabeled.core.contracts import Incompatible, InputSpec
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.nn.encoder import TokenEncoder


def from_timm(model: VisionTransformer, spec: InputSpec, name: str = "x") -> TokenEncoder:
    """A token encoder that gives what `model.forward_features` gives, for the input `name` of contract `spec`.

    The class token's position is added to the class token. The spec must name its spacing where items differ from it.
    Raises Incompatible where the model is no plain ViT with a final norm (registers, LayerScale, other activations).
    """
    (ph, pw), (gh, gw) = model.patch_embed.patch_size, model.patch_embed.grid_size
    block: Any = model.blocks[0]
    encoder = TokenEncoder(
        {name: spec},
        TokenEncoder.Options(
            width=model.embed_dim,
            depth=len(model.blocks),
            heads=block.attn.num_heads,
            mlp_ratio=block.mlp.fc1.out_features / model.embed_dim,
            patch=(ph, pw),
            positions="learned",
            grid=(gh, gw),
            cls=model.cls_token is not None,
            pool="cls" if model.global_pool == "token" else "mean",
        ),
    )
    try:
        encoder.load_state_dict(_ours(model.state_dict(), name, (gh, gw)))
    except (RuntimeError, KeyError) as error:
        raise Incompatible(f"this timm model is no plain ViT with a final norm; choose another one ({error})") from None
    _same(model, encoder, name)
    return encoder


def to_timm(encoder: TokenEncoder) -> dict[str, Tensor]:
    """The state of timm's `VisionTransformer` with the encoder's sizes, no classes and a final norm (`fc_norm=False`).

    The class token's own position is zero. Raises Incompatible where the encoder is none that timm can express.
    """
    if encoder.table is None or encoder.table.ndim != 3 or len(encoder.specs) != 1:
        raise Incompatible("timm's ViT has learned positions and one image input; this encoder does not")
    (name,) = encoder.specs
    state = encoder.state_dict()
    ph, pw = encoder.patch[name]
    positions = state.pop("table").flatten(0, 1)[None]
    weight = state.pop(f"project.{name}.weight")
    out = {
        "patch_embed.proj.weight": weight.reshape(len(weight), ph, pw, -1).permute(0, 3, 1, 2).contiguous(),
        "patch_embed.proj.bias": state.pop(f"project.{name}.bias"),
    }
    if "cls_token" in state:
        out["cls_token"] = state.pop("cls_token")[None, None]
        positions = torch.cat([torch.zeros_like(positions[:, :1]), positions], 1)
    out["pos_embed"] = positions
    return out | {key.removeprefix("transformer."): value for key, value in state.items()}


def _ours(state: dict[str, Tensor], name: str, grid: tuple[int, int]) -> dict[str, Tensor]:
    """timm's state under the token encoder's names, without timm's classifier."""
    state = {key: value for key, value in state.items() if not key.startswith("head.")}
    positions = state.pop("pos_embed")[0]
    out = {}
    if "cls_token" in state:
        own = len(positions) - grid[0] * grid[1]
        out["cls_token"] = state.pop("cls_token")[0, 0] + positions[:own].sum(0)
        positions = positions[own:]
    out["table"] = positions.reshape(*grid, -1)
    # patches have their channels last
    out[f"project.{name}.weight"] = state.pop("patch_embed.proj.weight").permute(0, 2, 3, 1).flatten(1)
    out[f"project.{name}.bias"] = state.pop("patch_embed.proj.bias")
    return out | {f"transformer.{key}": value for key, value in state.items()}


@torch.no_grad()
def _same(model: VisionTransformer, encoder: TokenEncoder, name: str) -> None:
    """Parts without weights (an activation, a scale) do not show in the state, but in the features."""
    height, width = model.patch_embed.img_size
    spec = encoder.specs[name]
    image = torch.linspace(-1, 1, spec.width * height * width).sin().reshape(1, spec.width, height, width)
    spacing = torch.tensor([spec.spacing or (1.0,) * spec.rank])
    dense = Dense(image, torch.ones(1, 1, height, width, dtype=torch.bool), spacing)
    training = model.training, encoder.training
    model.eval(), encoder.eval()
    theirs = model.forward_features(image.to(next(model.parameters())))[:, model.num_prefix_tokens :].to(image)
    difference = (encoder({name: dense}).tokens - theirs).abs().max()
    model.train(training[0]), encoder.train(training[1])
    if difference > 1e-3:
        raise Incompatible(
            f"this timm model is no plain ViT: its features differ by {difference:.2g}; choose another one"
        )
