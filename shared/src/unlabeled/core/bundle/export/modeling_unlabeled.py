"""A pretrained encoder of signals, images or volumes: tokens and pooled features. Needs torch and transformers only.

from transformers import AutoModel
model = AutoModel.from_pretrained(FOLDER, trust_remote_code=True)
out = model(values)  # (batch, channel, ...grid), normalised as preprocessor_config.json says
out.pooler_output, out.last_hidden_state
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

CONV = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class UnlabeledConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Sizes of the encoder.

    kind            `tokens`, a transformer over patches, or `convnet`
    in_channels     channels of the values, rank their number of axes
    spacing         step of the grid along each axis in the unit of position_scale; None: 1, or given by each call
    position_scale  size of a patch in that unit
    """

    model_type = "unlabeled-encoder"

    def __init__(
        self,
        kind: str = "tokens",
        rank: int = 2,
        in_channels: int = 3,
        spacing: list[float] | None = None,
        width: int = 192,
        depth: int = 4,
        heads: int = 3,
        patch: list[int] | None = None,
        mlp_ratio: float = 4.0,
        positions: str = "sincos",
        grid: list[int] | None = None,
        position_scale: list[float] | None = None,
        cls: bool = False,
        pool: str = "mean",
        channels: list[int] | None = None,
        kernels: list[int] | None = None,
        strides: list[int] | None = None,
        norm: str = "batch",
        **kwargs: Any,
    ) -> None:
        self.kind, self.rank, self.in_channels, self.spacing = kind, rank, in_channels, spacing
        self.width, self.depth, self.heads, self.mlp_ratio = width, depth, heads, mlp_ratio
        self.patch = list(patch or [16] * rank)
        self.positions, self.grid, self.cls, self.pool = positions, list(grid or []), cls, pool
        self.position_scale = list(position_scale or self.patch)
        self.channels, self.kernels, self.strides = list(channels or []), list(kernels or []), list(strides or [])
        self.norm = norm
        super().__init__(**kwargs)

    @property
    def hidden_size(self) -> int:
        return self.width if self.kind == "tokens" else self.channels[-1]


class UnlabeledModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """values (B, C, *S), and where they are not whole, valid (B, 1 | C, *S) bool -> tokens and pooled features.

    spacing (B, d), in the unit of the contract, where it differs from item to item.
    """

    config_class = UnlabeledConfig
    base_model_prefix = "unlabeled"
    main_input_name = "values"

    def __init__(self, config: UnlabeledConfig) -> None:
        super().__init__(config)
        if config.kind == "tokens":
            self._tokens(config)
        else:
            self._convnet(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Weights come from the file; torch's own start values hold where they do not."""

    def _tokens(self, config: UnlabeledConfig) -> None:
        width = config.width
        self.project = nn.Linear(config.in_channels * math.prod(config.patch), width)
        self.cls_token = nn.Parameter(torch.zeros(width)) if config.cls else None
        self.table = nn.Parameter(torch.zeros(*config.grid, width)) if config.positions == "learned" else None
        self.transformer = Transformer(width, config.depth, config.heads, config.mlp_ratio)

    def _convnet(self, config: UnlabeledConfig) -> None:
        widths = [config.in_channels, *config.channels]
        batch = config.norm == "batch"
        self.convs = nn.ModuleList(
            CONV[config.rank](a, b, k, s, k // 2, bias=not batch)
            for a, b, k, s in zip(widths[:-1], config.channels, config.kernels, config.strides, strict=True)
        )
        self.norms = nn.ModuleList(NORM[config.rank](c) for c in config.channels) if batch else nn.ModuleList()

    def forward(
        self, values: Tensor, valid: Tensor | None = None, spacing: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        valid = torch.ones_like(values[:, :1], dtype=torch.bool) if valid is None else valid
        encode = self._encode_tokens if self.config.kind == "tokens" else self._encode_convnet
        tokens, kept, cls = encode(values, valid, spacing)
        tokens = torch.where(kept[..., None], tokens, 0)
        return BaseModelOutputWithPooling(last_hidden_state=tokens, pooler_output=self._pool(tokens, kept, cls))

    def _pool(self, tokens: Tensor, valid: Tensor, cls: Tensor | None) -> Tensor:
        any_valid = valid.any(1, keepdim=True)
        if cls is not None and self.config.pool == "cls":
            return torch.where(any_valid, cls, 0)
        mean = tokens.sum(1) / valid.sum(1, keepdim=True).clamp_min(1)
        if self.config.kind == "tokens" and self.config.pool == "mean":
            return mean
        highest = torch.where(any_valid, tokens.masked_fill(~valid[..., None], -torch.inf).amax(1), 0)
        return torch.cat([mean, highest], 1)

    def _encode_tokens(
        self, values: Tensor, valid: Tensor, spacing: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        patch = self.config.patch
        sizes = values.shape[2:]
        tail = [-s % p for s, p in zip(sizes, patch, strict=True)]
        pads = [n for t in reversed(tail) for n in (0, t)]
        whole = valid.expand_as(values)
        elements = _cut(F.pad(whole, pads), patch)
        patches = torch.where(elements, _cut(F.pad(values, pads), patch), 0)
        kept = elements.any(-1)
        x = self.project(patches.to(self.project.weight.dtype)) + self._places(values, spacing).to(patches.dtype)
        attend = kept
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], 1, -1), x], 1)
            attend = torch.cat([torch.ones_like(kept[:, :1]), kept], 1)
        # a row with nothing valid attends to its fillers, so that its softmax is defined
        attend = (attend | ~attend.any(1, keepdim=True))[:, None, None]
        x = self.transformer(x, attend)
        return (x, kept, None) if self.cls_token is None else (x[:, 1:], kept, x[:, 0])

    def _places(self, values: Tensor, spacing: Tensor | None) -> Tensor:
        """(B, L, width): positions, counted in patches from the centre of the first one."""
        config = self.config
        if spacing is None:
            steps = config.spacing or [1.0] * config.rank
            spacing = torch.tensor([steps], device=values.device, dtype=torch.float32).expand(values.shape[0], -1)
        axes = [
            torch.arange(-(-s // p), device=values.device) for s, p in zip(values.shape[2:], config.patch, strict=True)
        ]
        index = torch.stack([a.flatten() for a in torch.meshgrid(*axes, indexing="ij")], -1)
        position = [
            (index[:, i] + 0.5) * p * spacing[:, i : i + 1] / scale - 0.5
            for i, (p, scale) in enumerate(zip(config.patch, config.position_scale, strict=True))
        ]
        if self.table is not None:
            return _looked_up(self.table, position)
        count = config.width // (2 * config.rank)
        frequency = 10000.0 ** -(torch.arange(count, device=values.device, dtype=torch.float32) / count)
        parts = []
        for along in reversed(position):
            angle = along[..., None] * frequency
            parts += [angle.sin(), angle.cos()]
        out = torch.cat(parts, -1)
        return F.pad(out, (0, config.width - out.shape[-1]))

    def _encode_convnet(
        self, values: Tensor, valid: Tensor, spacing: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        x = torch.where(valid, values, 0).to(next(self.parameters()).dtype)
        kept = valid.any(1)
        for i, conv in enumerate(self.convs):
            x = conv(x)
            every = slice(None, None, self.config.strides[i])
            kept = kept[(slice(None), *[every] * self.config.rank)]
            if len(self.norms):
                x = self.norms[i](x)
            x = torch.where(kept.unsqueeze(1), x.relu(), 0)
        return x.flatten(2).transpose(1, 2), kept.flatten(1), None


def _cut(x: Tensor, patch: list[int]) -> Tensor:
    """(B, C, *S) -> (B, L, prod(patch) * C), channels last in a patch."""
    for axis, p in enumerate(patch):
        x = x.unfold(2 + axis, p, p)
    rank = len(patch)
    x = x.permute(0, *range(2, 2 + rank), *range(2 + rank, 2 + 2 * rank), 1)
    return x.flatten(1 + rank).flatten(1, rank)


def _looked_up(table: Tensor, position: list[Tensor]) -> Tensor:
    """A table (G_1, ..., G_d, D) at positions: linear between its places, its rim outside."""
    sides = []
    for along, size in zip(position, table.shape[:-1], strict=True):
        at = along.clamp(0, size - 1)
        low = at.floor().long()
        share = at - low
        sides.append(((low, 1 - share), ((low + 1).clamp_max(size - 1), share)))
    out = torch.zeros((), dtype=table.dtype, device=table.device)
    for corner in itertools.product(*sides):
        weight = torch.stack([share for _, share in corner]).prod(0)
        out = out + weight[..., None].to(table.dtype) * table[tuple(i for i, _ in corner)]
    return out


class Transformer(nn.Module):
    def __init__(self, width: int, depth: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, int(width * mlp_ratio)) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor, attend: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, attend)
        out: Tensor = self.norm(x)
        return out


class Block(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor, attend: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x), attend)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, attend: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        return self.proj(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]
