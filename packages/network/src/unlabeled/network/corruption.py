"""What is put into flows in place of what is hidden: bytes of the same field, and bursts of the same protocol.

It stands alone since every flow method hides fields by the same rule. Rows of weight 0 give nothing to others.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.streams import uniform
from unlabeled.core.tokens.exchange import rows
from unlabeled.core.tokens.tokens import Tokens


def everybody(tokens: Tokens) -> Tokens:
    """The packed tokens of all ranks' rows in rank order. With several ranks it waits for the device, to learn the longest."""
    if ranks.world() == 1:
        return tokens
    length = tokens.valid.shape[1]
    more = int(ranks.gather(torch.tensor([length], device=tokens.valid.device)).max()) - length

    def of_all(x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, more))
        return (
            ranks.gather(x.to(torch.uint8)).bool() if x.dtype == torch.bool else ranks.gather(x)
        )  # not all gather bools

    return Tokens.of(of_all(tokens.patches), of_all(tokens.elements), of_all(tokens.coords))


def alike(ids: Tensor, valid: Tensor, noise: Tensor, fields: int) -> Tensor:
    """For every token the ids of a random one with its field, of any rank's: (B, L, C); its own where there is none.

    ids (B, L, C) int64 with the field, below `fields`, first; valid (B, L) bool, which may be drawn; noise (B, L) uniform.
    So a value is as frequent as the batch has it at that field, and no field gets what it never holds.
    """
    pool = everybody(Tokens.of(ids, valid[..., None].expand_as(ids), ids[..., :1]))
    field = torch.where(pool.valid, pool.patches[..., 0], fields).flatten()
    order = field.argsort(stable=True)
    ends = torch.searchsorted(field[order], torch.arange(fields, device=ids.device), right=True)
    count = ends - F.pad(ends[:-1], (1, 0))
    own = count[ids[..., 0]]
    step = (noise.double() * own).long()  # in doubles a number below 1 times a count stays below it
    at = order[(ends[ids[..., 0]] - 1 - step).clamp_min(0)]
    return torch.where((own > 0)[..., None], pool.patches.flatten(0, 1)[at], ids)


def ring(index: Tensor, weight: Tensor, kind: Tensor, stream: int) -> tuple[Tensor, Tensor]:
    """Another item of the same kind for each of this rank's rows: (B,) its number among all ranks' rows, (B,) if there is one.

    As `tokens.exchange.donors`, with a ring for every kind (B,) int64 of at least 0: everyone gives once and takes once,
    and none is its own donor. There is none for a row of weight 0, or for the only one of its kind.
    """
    ids, kinds, counts = ranks.gather(index), ranks.gather(kind), ranks.gather(weight) > 0
    kinds = torch.where(counts, kinds, -1)
    order = uniform(stream, ids, ()).argsort(stable=True)
    order = order[kinds[order].argsort(stable=True)]
    line = kinds[order]
    turn = torch.arange(len(line), device=line.device)
    last = F.pad(line[1:] != line[:-1], (0, 1), value=True)
    donor = torch.empty_like(order).scatter(
        0, order, order[torch.where(last, torch.searchsorted(line, line), turn + 1)]
    )
    own = slice(ranks.rank() * len(index), (ranks.rank() + 1) * len(index))
    return donor[own], (counts & (donor != turn))[own]


def numbers(tokens: Tokens) -> Tensor:
    """The number of the burst of every token, (B, L) int64."""
    return tokens.coords[..., 0].round().long()


def own(tokens: Tokens) -> Tensor:
    """Which tokens (B, L) bool are said of their whole burst."""
    return tokens.coords[..., 1].round() == 0


def present(tokens: Tokens, count: int) -> Tensor:
    """Which of the burst numbers below `count` a flow has, (B, count) bool."""
    at = torch.where(tokens.valid, numbers(tokens), count)
    return torch.zeros(len(at), count + 1, dtype=torch.bool, device=at.device).scatter(1, at, True)[:, :count]


def without(tokens: Tokens, gone: Tensor) -> Tokens:
    """The tokens, invalid where `gone` (B, L) too."""
    return Tokens.of(tokens.patches, tokens.elements & ~gone[..., None], tokens.coords)


def exchanged(tokens: Tokens, everyone: Tokens, donor: Tensor, number: Tensor, swapped: Tensor) -> Tokens:
    """The rows that are `swapped` (B,) bool with the burst `number` (B,) of row `donor` (B,) of everyone, in place of their own.

    All of a burst goes: its own tokens, those of its packets, and how many there are. The new one stands at the end of its row.
    """
    at = torch.where(swapped, number, -1)[:, None]
    given = rows(everyone, donor, swapped)
    return without(tokens, numbers(tokens) == at).followed_by(without(given, numbers(given) != at))


def close(tokens: Tokens) -> Tokens:
    """The valid tokens of every row first, so that what is drawn by place follows them, and neither padding nor what is gone.

    It waits for the device, to learn how many there are.
    """
    order = tokens.valid.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
    return tokens.take(order[:, : max(1, int(tokens.valid.sum(1).max()))], None)
