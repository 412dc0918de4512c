"""Views of one flow: (x, draw, spec, **options) -> x, per item, on the device. For methods that agree across views.

A view keeps the shape: it marks tokens invalid or changes their values. Draws are keyed by the item and by the number of the
burst, of the packet in it, or of the token, so that a view depends neither on padding nor on the rest of the batch. To learn
how many there are it waits for the device. Raises RequestError for an input that holds no flows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Packed
from unlabeled.core.contracts.recipe import nearest
from unlabeled.core.streams import Draw
from unlabeled.network.flow.fields import BYTES, CHANNELS, TYPES, first


def drop_packets(x: Packed, draw: Draw, spec: InputSpec, *, share: float = 0.2) -> Packed:
    """Each packet is lost with this chance, as where a capture misses some; the first of a flow stays.

    Of a burst that lost some, its bytes and packets are taken out, since they would be wrong; one that lost all is gone.
    Gaps, sequence and acknowledgement numbers stay: they count what was lost too.
    """
    _check(spec, "drop_packets", share)
    burst, packet = _numbers(x)
    bursts, packets = _most(burst) + 1, _most(packet) + 1
    noise = draw.uniform("packet", bursts, packets)[x.owner, burst, packet]
    real = x.valid & (packet > 0)
    lost = real & (noise < share) & ((burst > 0) | (packet > 1))
    of = x.owner * bursts + burst

    def any_of(which: Tensor) -> Tensor:
        count = torch.zeros(x.size * bursts, device=which.device).scatter_add(0, of, which.float())
        return count[of] > 0

    field = x.values[:, 0].nan_to_num()
    wrong = ((field == first("bytes")) | (field == first("packets"))) & any_of(lost)
    empty = any_of(real) & ~any_of(real & ~lost)
    return replace(x, valid=x.valid & ~(lost | wrong | empty))


def drop_fields(x: Packed, draw: Draw, spec: InputSpec, *, share: float = 0.2) -> Packed:
    """Each field of each packet and burst is missing with this chance; the first of a flow stays."""
    _check(spec, "drop_fields", share)
    owner = x.owner
    at = torch.arange(len(owner), device=owner.device) - x.offsets[owner]
    noise = draw.uniform("token", _most(at) + 1)[owner, at]
    return replace(x, valid=x.valid & ((noise >= share) | (at == 0)))


def drop_kinds(
    x: Packed, draw: Draw, spec: InputSpec, *, kinds: Sequence[str] = ("ttl", "window"), share: float = 0.5
) -> Packed:
    """Each of these kinds of fields is missing from the whole flow with this chance; the direction of bursts stays.

    What hardly changes within a flow and tells hosts and roads apart, as the TTL does, is how two views of a flow are known
    again without a look at anything else.
    """
    _check(spec, "drop_kinds", share)
    names = {name for name, *_ in TYPES} - {"direction"}
    if wrong := [kind for kind in kinds if kind not in names]:
        raise RequestError(f"drop_kinds.kinds: {nearest(wrong[0], sorted(names))}")
    number = torch.tensor([kinds.index(n) + 1 if n in kinds else 0 for n, *_ in TYPES], device=x.values.device)
    lost = F.pad(draw.uniform("kind", len(kinds)) < share, (1, 0))
    field = torch.where(x.valid, x.values[:, 0], 0).round().long().clamp(0, len(TYPES) - 1)
    return replace(x, valid=x.valid & ~lost[x.owner, number[field]])


def jitter_gaps(x: Packed, draw: Draw, spec: InputSpec, *, factor: float = 2.0) -> Packed:
    """All gaps of a flow are longer by one factor between 1 / factor and factor, uniform in its logarithm: another road.

    A gap of 0, of the first burst of a direction, stays 0. The octaves of the gap (see `fields.octaves`) are rounded anew.
    """
    _check(spec, "jitter_gaps")
    if factor < 1:
        raise RequestError(f"jitter_gaps.factor is {factor:g} and must be 1 or more")
    times = torch.exp2((2 * draw.uniform("gap", 1)[:, 0].double() - 1) * math.log2(factor))[x.owner]
    ids = x.values.double().nan_to_num()
    gap = torch.exp2((ids[:, 1] * BYTES + ids[:, 2]) / BYTES) - 1
    octave = (BYTES * torch.log2(1 + gap * times)).round().clamp_max(BYTES * BYTES - 1)
    high = (octave / BYTES).floor()
    moved = torch.stack([ids[:, 0], high, octave - BYTES * high], 1).to(x.values.dtype)
    return replace(x, values=torch.where((x.valid & (ids[:, 0] == first("gap")))[:, None], moved, x.values))


def first_bursts(x: Packed, draw: Draw, spec: InputSpec, *, least: int = 1) -> Packed:
    """Only the first bursts of a flow, as of one that was cut short: a random number, at least `least` or all that there are."""
    _check(spec, "first_bursts")
    if least < 1:
        raise RequestError(f"first_bursts.least is {least} and must be 1 or more")
    burst, _ = _numbers(x)
    count = torch.zeros(x.size, dtype=torch.int64, device=burst.device)
    count = count.scatter_reduce(0, x.owner, torch.where(x.valid, burst + 1, 0), "amax")
    more = (count - least + 1).clamp_min(1)
    kept = least + (draw.uniform("count", 1)[:, 0].double() * more).long()
    return replace(x, valid=x.valid & (burst < kept[x.owner]))


def _check(spec: InputSpec, view: str, share: float = 0.0) -> None:
    if spec.channels != CHANNELS or spec.rank != 3:
        raise RequestError(
            f"the view {view} is for the fields of flows ({', '.join(CHANNELS)}), and this input holds "
            f"{', '.join(spec.channels)}; leave it out"
        )
    if not 0 <= share < 1:
        raise RequestError(f"{view}.share is {share:g} and must lie in 0 to 1, without 1")


def _numbers(x: Packed) -> tuple[Tensor, Tensor]:
    """Burst and packet of every token, (N,) int64; 0 where it is invalid, which may hold anything."""
    place = torch.where(x.valid[:, None], x.coords, 0).round().long()
    return place[:, 0], place[:, 1]


def _most(numbers: Tensor) -> int:
    return int(numbers.max()) if len(numbers) else 0
