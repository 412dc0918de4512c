"""From a ViT of timm's names to the token encoder: sizes from shapes, LayerScale folded, channels and grid adapted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from unlabeled.core.bundle.foreign.channels import adapted
from unlabeled.core.contracts import Incompatible, InputSpec
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.timm_vit import from_timm

# heads show in no shape: those of the published sizes (Dosovitskiy et al. 2021, table 1; DeiT for the small ones)
HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}


def from_state(state: Mapping[str, Tensor], options: Mapping[str, Any], notes: list[str]) -> VisionTransformer:
    """timm's ViT with these weights. Raises Incompatible where the shapes are not those of a plain ViT.

    options: `heads`, where the width is none of the published ones; `grid`, where the positions are no square.
    """
    try:
        width, channels, *patch = state["patch_embed.proj.weight"].shape
        count, cls = state["pos_embed"].shape[1], "cls_token" in state
        hidden = state["blocks.0.mlp.fc1.weight"].shape[0]
        ph, pw = patch
    except (KeyError, ValueError, IndexError) as error:
        raise Incompatible(f"these weights are no plain ViT of images ({error}); choose other weights") from None
    if any(n in state for n in ("reg_token", "register_tokens", "dist_token")):
        raise Incompatible(
            "these weights have register or distillation tokens, which our encoder has not; choose others"
        )
    heads = options.get("heads", HEADS.get(width))
    if heads is None:
        raise Incompatible(f"the weights do not say how many heads share their width of {width}; name encoder.heads")
    if "heads" not in options:
        notes.append(f"{heads} heads, as in the published ViT of width {width}")
    depth = 1 + max(int(m[1]) for n in state if (m := re.match(r"blocks\.(\d+)\.", n)))
    if depth > len(state):
        raise Incompatible("these weights lack blocks between their first and last; copy them again")
    rows, columns = _grid(count - cls, options)
    model = VisionTransformer(
        img_size=(rows * ph, columns * pw),
        patch_size=(ph, pw),
        in_chans=channels,
        num_classes=0,
        global_pool="token" if cls else "avg",
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=hidden / width,
        qkv_bias="blocks.0.attn.qkv.bias" in state,
        init_values=1.0 if "blocks.0.ls1.gamma" in state else None,
        class_token=cls,
        fc_norm=False,
    )
    own = model.state_dict()
    wrong = [n for n in own if n not in state] + [n for n in state if n not in own]
    wrong += [n for n in own if n in state and own[n].shape != state[n].shape]
    if wrong:
        raise Incompatible(
            f"{len(wrong)} of {len(own)} tensors of a plain ViT are missing, unexpected or of another shape "
            f"({', '.join(wrong[:3])}); choose other weights or name their format"
        )
    model.load_state_dict(dict(state))
    return model.eval()


def _grid(count: int, options: Mapping[str, Any]) -> tuple[int, int]:
    given = tuple(options.get("grid", ()))
    if len(given) == 2 and math.prod(given) == count:
        return given[0], given[1]
    side = math.isqrt(max(count, 0))
    if side == 0 or side * side != count:
        raise Incompatible(f"the weights have {count} positions, which are no square; name encoder.grid")
    return side, side


def encoder_of(
    model: VisionTransformer,
    name: str,
    spec: InputSpec,
    options: Mapping[str, Any],
    notes: list[str],
    read: Sequence[str] = (),
) -> TokenEncoder:
    """The token encoder with the features of `model`, for the channels of `spec`.

    options: `grid` to interpolate the positions to, `pool`. read: names of the channels of the weights, where they are
    known. Raises Incompatible where the model is no plain ViT.
    """
    fold(model, notes)
    projection = model.patch_embed.proj
    weight, line = adapted(projection.weight.detach(), spec.channels, read)
    if weight.shape[1] != 3 or not torch.equal(weight, projection.weight):
        notes.append(line)
    fresh = nn.Conv2d(weight.shape[1], weight.shape[0], projection.kernel_size, projection.stride)
    with torch.no_grad():
        fresh.weight.copy_(weight)
        fresh.bias.copy_(projection.bias)  # type: ignore[union-attr]
    model.patch_embed.proj = fresh
    return refit(from_timm(model, spec, name), options, notes)


def fold(model: VisionTransformer, notes: list[str]) -> None:
    """LayerScale into the layers before it: gamma * (W h + b) = (gamma W) h + gamma b (Touvron et al. 2021, eq. 4)."""
    folded = 0
    with torch.no_grad():
        block: Any
        for block in model.blocks:
            for scale, layer in (("ls1", block.attn.proj), ("ls2", block.mlp.fc2)):
                gamma = getattr(getattr(block, scale, None), "gamma", None)
                if gamma is not None:
                    layer.weight.mul_(gamma[:, None])
                    layer.bias.mul_(gamma)
                    setattr(block, scale, nn.Identity())
                    folded += 1
    if folded:
        notes.append(f"{folded} LayerScales folded into the layers before them")


def refit(encoder: TokenEncoder, options: Mapping[str, Any], notes: list[str]) -> TokenEncoder:
    """The same encoder with another pool, or with its positions interpolated to another grid."""
    changes = {k: options[k] for k in ("grid", "pool", "position_scale") if k in options}
    own = encoder.options.model_dump()
    wanted = validated(TokenEncoder.Options, {**own, **changes}, "encoder")
    if wanted == encoder.options:
        return encoder
    state = encoder.state_dict()
    before, after = encoder.options.grid, wanted.grid
    if before != after:
        if len(after) != 2:
            raise Incompatible(f"encoder.grid: {after} is no grid of an image; give two numbers")
        flat = resample_abs_pos_embed(
            state["table"].flatten(0, 1)[None], new_size=list(after), old_size=list(before), num_prefix_tokens=0
        )
        state["table"] = flat[0].reshape(*after, -1)
        notes.append(
            f"positions: {' x '.join(map(str, before))} interpolated to {' x '.join(map(str, after))} (bicubic)"
        )
    out = TokenEncoder(encoder.specs, wanted)
    out.load_state_dict(state)
    return out
