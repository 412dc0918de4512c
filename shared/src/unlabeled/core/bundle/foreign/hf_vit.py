"""transformers' `ViTModel` and what is built on it: queries, keys and values apart, under names of its own."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from unlabeled.core.bundle.foreign.files import drop
from unlabeled.core.contracts import Incompatible

OUTER = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
# as files have them, and as transformers 5 has them in memory
BLOCK = re.compile(r"(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)")
INNER = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "attention.output.dense": "attn.proj",
    "attention.o_proj": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "mlp.fc1": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc2": "mlp.fc2",
}
PARTS = {
    "attention.attention.query": 0,
    "attention.attention.key": 1,
    "attention.attention.value": 2,
    "attention.q_proj": 0,
    "attention.k_proj": 1,
    "attention.v_proj": 2,
}


def adapt(state: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    state = drop(state, ("pooler.", "classifier.", "embeddings.mask_token"), notes)
    out: dict[str, Tensor] = {}
    apart: dict[str, dict[int, Tensor]] = {}
    for name, value in state.items():
        found = BLOCK.fullmatch(name)
        if name in OUTER:
            out[OUTER[name]] = value
        elif found and found[2] in PARTS:
            apart.setdefault(f"blocks.{found[1]}.attn.qkv.{found[3]}", {})[PARTS[found[2]]] = value
        elif found and found[2] in INNER:
            out[f"blocks.{found[1]}.{INNER[found[2]]}.{found[3]}"] = value
        else:
            raise Incompatible(f"the weights hold {name}, which transformers' plain ViT has not; choose other weights")
    for name, three in apart.items():
        if set(three) != {0, 1, 2}:
            raise Incompatible(f"the weights lack a part of {name} (query, key or value); copy them again")
        out[name] = torch.cat([three[i] for i in range(3)])
    notes.append("queries, keys and values joined; norms with an epsilon of 1e-6, transformers has 1e-12")
    return out
