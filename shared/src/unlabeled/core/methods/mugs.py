"""Mugs: Zhou et al. 2022, Mugs: A Multi-Granular Self-Supervised Learning Framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from unlabeled.core.contracts import InputSpec
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.losses.contrastive import queue_nce
from unlabeled.core.methods.base import Context, Views, unchanged, weighted
from unlabeled.core.methods.dino import DINO
from unlabeled.core.methods.views import encoded
from unlabeled.core.nn.heads import Projector
from unlabeled.core.nn.transformer import Transformer, xavier
from unlabeled.core.targets.features import unit
from unlabeled.core.targets.queue import Queue
from unlabeled.core.targets.teacher import Teacher


class LocalGroup(nn.Module):
    """A feature (B, P) as its neighbourhood says it: with the nearest rows through a transformer, read at its own place."""

    def __init__(self, width: int, depth: int, heads: int, neighbours: int) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.transformer = Transformer(width, depth, heads, 4.0)
        xavier(self.transformer)

    def forward(self, x: Tensor, rows: Tensor, met: Tensor) -> Tensor:
        """rows (Q, P), of which each item meets some, met (B, Q)."""
        near, there = nearest_rows(x, rows, met, self.neighbours)
        tokens = torch.cat([x[:, None], rows[near].to(x.dtype)], 1)
        return self.transformer(tokens, torch.cat([torch.ones_like(there[:, :1]), there], 1))[:, 0]  # type: ignore[no-any-return]


@torch.no_grad()
def nearest_rows(x: Tensor, rows: Tensor, met: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Numbers (B, k) of the k rows (Q, D) of highest cosine with x (B, D) among those met (B, Q), and which there are."""
    cosine = unit(x) @ unit(rows).to(torch.promote_types(x.dtype, torch.float32)).T
    near = cosine.masked_fill(~met, -torch.inf).topk(min(most, len(rows)), dim=1).indices
    return near, met.gather(1, near)


class Mugs(DINO):
    """A student agrees with its slow copy on the item, on its neighbourhood and on its group.

    On the item: InfoNCE between a projection of one crop and the copy's of another, against a queue. On the
    neighbourhood: the same, between features that a small transformer made of an item and its nearest ones in a memory.
    On the group: DINO. The teacher's encoder is exported.

    Deviations: pooled features serve all three terms, where the authors take the class token twice and the mean of the
    patches for the neighbourhood. Queues and memories start empty and fill up, where theirs begin with random rows, and
    their memory's pointer moves twice at each step, so that half of it may stay random; a search there compares features
    before the last norm with features after it. One large crop of every item enters, theirs are both crops in the queues.
    Teacher and student see crops of one kind, where their teacher's are augmented less. On
    small data a queue reaches back over an epoch: former rows of an item, and those of its record, are neither neighbours
    nor negatives of it unless asked for. All pairs of crops weigh the same, where large and small crops share half each in
    the authors' code. The heads have ReLU in place of GELU, and are narrower by default, as DINO's are.
    """

    class Options(DINO.Options):
        instance: float = Field(1.0, ge=0, description="weight of agreeing on the item")
        local_group: float = Field(1.0, ge=0, description="weight of agreeing on its neighbourhood")
        group: float = Field(1.0, ge=0, description="weight of agreeing on its group")
        contrast_temperature: float = Field(0.2, gt=0, description="divides the cosines of the first two")
        embedding: tuple[int, ...] = Field(
            (512, 128), min_length=1, description="widths of their projectors' layers (paper: 2048, 2048, 256)"
        )
        predictor: int = Field(512, ge=1, description="width of their predictors' hidden layer (paper: 4096)")
        queue: int = Field(4096, ge=1, description="rows that queues and memories keep (paper: 65536)")
        neighbours: int = Field(8, ge=1, description="rows of the memory that make a neighbourhood")
        depth: int = Field(1, ge=1, description="blocks of the transformer that joins them")
        heads: int = Field(4, ge=1, description="its attention heads")
        same_record: bool = Field(
            False, description="whether rows of an item's own record are negatives and neighbours"
        )

    def __init__(
        self, encoder: nn.Module, specs: Mapping[str, InputSpec], options: Options, views: Views = unchanged
    ) -> None:
        super().__init__(encoder, specs, options, views)
        o, width, size = options, self.encoder.width, options.embedding[-1]
        two = ("instance", "local_group")
        self.neighbourhood = LocalGroup(width, o.depth, o.heads, o.neighbours)
        self.projectors = nn.ModuleDict({n: Projector(width, o.embedding, norm=False) for n in two})
        self.predictors = nn.ModuleDict({n: Projector(size, (o.predictor, size), norm=False) for n in two})
        self.teacher = Teacher(options.teacher, **self._student())
        # keys of the teacher by term, and features of both
        widths = {**dict.fromkeys(two, size), "student": width, "teacher": width}
        self.queues = nn.ModuleDict({n: Queue(o.queue, w) for n, w in widths.items()})
        self.queues["record"] = Queue(o.queue, 1, dtype=torch.int64)
        # what enters them, and its weight, since the last optimiser step, which may see its batch in parts
        self._rows: list[tuple[dict[str, Tensor], Tensor]] = []

    def step(self, batch: tuple[list[Batch], list[Batch]], ctx: Context) -> dict[str, Any]:
        o, (wide, small) = self.options, batch
        weight, record = wide[0].weight, wide[0].record[:, None]
        met = self._queue("record").valid.expand(len(record), -1)
        if not o.same_record:
            met = met & (record != self._queue("record").rows[:, 0])
        pooled = [features.pooled for features in encoded(self.encoder.summary, wide + small)]
        with torch.no_grad():
            seen = [features.pooled for features in encoded(self.teacher["encoder"].summary, wide)]
            near = self._around(self.teacher["neighbourhood"], seen, "teacher", met)
            keys = {"instance": self._keys("instance", seen), "local_group": self._keys("local_group", near)}
        rows = {name: found[0] for name, found in keys.items()} | {"student": pooled[0].detach(), "teacher": seen[0]}
        self._rows.append((rows | {"record": record}, weight))
        said = {"instance": pooled, "local_group": self._around(self.neighbourhood, pooled, "student", met)}
        terms = {name: (getattr(o, name), self._contrast(name, said[name], keys[name], met, weight)) for name in said}
        group, use = self.agreement(pooled, seen, weight, ctx)
        gap = self.teacher.gap(**self._student())
        return weighted({**terms, "group": (o.group, group)}, pooled[0], teacher_gap=gap, prototype_use=use)

    def _queue(self, name: str) -> Queue:
        queue = self.queues[name]
        assert isinstance(queue, Queue)
        return queue

    def _around(self, group: LocalGroup, features: list[Tensor], memory: str, met: Tensor) -> list[Tensor]:
        n = len(features)
        return list(group(torch.cat(features), self._queue(memory).rows, met.repeat(n, 1)).chunk(n))

    def _keys(self, name: str, features: list[Tensor]) -> list[Tensor]:
        return list(unit(self.teacher["projectors"][name](torch.cat(features))).chunk(len(features)))

    def _contrast(self, name: str, features: list[Tensor], keys: list[Tensor], met: Tensor, weight: Tensor) -> Tensor:
        """The mean over pairs of different crops, the first of which are those of the keys."""
        x, rows = torch.cat(features), self._queue(name).rows
        says = self.predictors[name](unit(self.projectors[name](x)).to(x.dtype)).chunk(len(features))
        pairs = [(query, key) for j, query in enumerate(says) for i, key in enumerate(keys) if i != j]
        return torch.stack(
            [queue_nce(q, k, rows, met, self.options.contrast_temperature, weight) for q, k in pairs]
        ).mean()

    def after_step(self, ctx: Context) -> None:
        parts, weights = zip(*self._rows, strict=True)
        self._rows = []
        for name in self.queues:
            self._queue(name).put(torch.cat([part[name] for part in parts]), torch.cat(weights))
        super().after_step(ctx)

    def _student(self) -> dict[str, nn.Module]:
        return super()._student() | {"neighbourhood": self.neighbourhood, "projectors": self.projectors}
