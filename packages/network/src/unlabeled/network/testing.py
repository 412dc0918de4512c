"""Generated flows for tests of encoders, methods and views: the fields that a reader gives, of no capture.

TCP and UDP conversations with relative sequence numbers, lengths that add up, and gaps as they were drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from unlabeled.core import streams
from unlabeled.core.contracts import Input, InputSpec, Sample
from unlabeled.core.contracts.batch import Batch, Packed
from unlabeled.core.contracts.sample import UNIT_OF_IDS
from unlabeled.core.data.loading import Collate
from unlabeled.core.methods.base import Views, unchanged
from unlabeled.core.testing.method import BATCH, CTX, FAILED, Grids, MethodContract
from unlabeled.core.testing.ranks import assert_same, step_and_gradients
from unlabeled.network.flow.fields import CHANNELS, first, octaves

SPEC = InputSpec(
    layout="packed",
    channels=CHANNELS,
    units=(UNIT_OF_IDS,) * 3,
    axes=("burst", "packet", "place"),
    unit="place",
)
HEADERS = {"tcp": 40, "udp": 28, "icmp": 28}


@dataclass(frozen=True)
class Burst:
    """back: of the server; payload: bytes of each packet; start: us since the flow began."""

    back: bool
    payload: tuple[int, ...]
    start: float


def tokens(bursts: Sequence[Burst], protocol: str = "tcp") -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """data (L, 3) and coords (L, 3) of a flow, as `tokenise` makes them."""
    rows: list[tuple[int, int, int, int, int]] = []
    sent, last = [0, 0], [-1.0, -1.0]
    for b, burst in enumerate(bursts):
        way = int(burst.back)
        gap = burst.start - last[way] if last[way] >= 0 else 0.0
        last[way] = burst.start
        lengths = [HEADERS[protocol] + p for p in burst.payload]
        about = octaves(np.array([sum(lengths), len(lengths), gap]))
        rows += [(first(n), int(v), b, 0, i) for i, (n, v) in enumerate(zip(_OWN, (way, *about), strict=True))]
        for p, (payload, length) in enumerate(zip(burst.payload, lengths, strict=True), 1):
            values = [
                ("header length", 20),
                ("service", 0),
                ("length", length),
                ("flags", 2),
                ("ttl", 57 if way else 64),
            ]
            if protocol == "tcp":
                values += [("tcp flags", 24 if payload else 16), ("window", 64240 - 100 * b)]
                values += [("seq", sent[way] >> 16), ("seq+", sent[way] & 65535)]
                values += [("ack", sent[1 - way] >> 16), ("ack+", sent[1 - way] & 65535), ("urgent", 0)]
            elif protocol == "udp":
                values += [("udp length", payload + 8)]
            else:
                values += [("icmp type", 0 if way else 8), ("icmp code", 0)]
            sent[way] += payload
            rows += [(first(n.rstrip("+")) + n.endswith("+"), v, b, p, i) for i, (n, v) in enumerate(values)]
    field, value, *place = np.array(rows).T
    return np.stack([field, value >> 8, value & 255], 1).astype(np.float32), np.stack(place, 1).astype(np.float64)


_OWN = ("direction", "bytes", "packets", "gap")


def conversation(draw: np.random.Generator, count: int, pace: float = 1e5) -> list[Burst]:
    """`count` bursts to and fro, of 1 to 3 packets, `pace` us apart on average."""
    start = np.cumsum(draw.exponential(pace, count))
    return [
        Burst(b % 2 == 1, tuple(map(int, draw.integers(0, 1400, draw.integers(1, 4)))), float(start[b] - start[0]))
        for b in range(count)
    ]


def flow(bursts: Sequence[Burst], protocol: str = "tcp") -> Input:
    """The input `x` of a flow."""
    data, coords = tokens(bursts, protocol)
    return Input(data, SPEC.channels, SPEC.units, layout="packed", unit="place", coords=coords)


def packed(flows: Sequence[Input | None], dtype: torch.dtype = torch.float64) -> Packed:
    """A batch of flows; None is one that could not be read."""
    samples = [Sample({"x": x} if x else {}, key=str(i), group="g", index=i) for i, x in enumerate(flows)]
    x = Collate({"x": SPEC})._input(SPEC, [s.inputs.get("x") for s in samples])
    assert isinstance(x, Packed)
    return replace(x, values=x.values.to(dtype), coords=x.coords.to(dtype))


def batched(x: Packed, weight: torch.Tensor | None = None) -> Batch:
    """The flows as a batch of items 0, 1, ..."""
    ids = torch.arange(x.size)
    return Batch({"x": x}, ids, ids, ids, torch.ones(x.size) if weight is None else weight, {})


class Flows(Grids):
    """Conversations of 1 to 7 bursts: two of three by TCP, the others by UDP."""

    def sample(self, i: int) -> Sample:
        draw = streams.rng(0, "flow", i)
        x = flow(conversation(draw, 1 + i % 7), ("tcp", "tcp", "udp")[i % 3])
        return Sample({"x": x}, key=f"flows#{i}", group=f"g{i // 4}", index=i, record=i // 4)

    @property
    def specs(self) -> dict[str, InputSpec]:
        return {"x": SPEC}


class FlowContract(MethodContract):
    """The contract of methods on packed flows. They wait for the device, to learn how many tokens there are."""

    encoder: ClassVar[tuple[str, dict[str, Any]]] = (
        "unlabeled.network.encoder:FlowEncoder",
        {"width": 16, "depth": 1, "heads": 2},
    )
    views: ClassVar[Views] = staticmethod(unchanged)
    test_a_step_does_not_wait_for_the_device = None  # type: ignore[assignment]

    @classmethod
    def source(cls) -> Flows:
        return Flows(cls.shape)

    @classmethod
    def batch(cls) -> Batch:
        """8 flows in fp64: of the second the last third is invalid, two failed to load."""
        source = cls.source()
        batch = Collate(source.specs)([source.sample(i) for i in range(BATCH)])
        x = batch.inputs["x"]
        assert isinstance(x, Packed)
        valid = x.valid & ~torch.isin(x.owner, torch.tensor(FAILED))
        first_, last = x.offsets[1:3].tolist()
        valid[last - (last - first_) // 3 : last] = False
        weight = torch.ones(BATCH)
        weight[FAILED] = 0
        x = replace(x, values=x.values.double(), coords=x.coords.double(), valid=valid)
        return replace(batch.with_inputs(x=x), weight=weight)

    def _alone(self, batch: Batch) -> dict[str, torch.Tensor]:
        return step_and_gradients(self.method().double(), batch, CTX)

    def test_rows_of_weight_zero_change_nothing(self) -> None:
        plain = self.batch()
        x = plain.inputs["x"]
        assert isinstance(x, Packed)
        bad = torch.isin(x.owner, torch.tensor(FAILED))
        values = torch.where(bad[:, None], torch.nan, torch.where(x.valid[:, None], x.values, 1e6))
        coords = torch.where(x.valid[:, None], x.coords, 3.0)
        spoiled = plain.with_inputs(x=replace(x, values=values, coords=coords))
        assert_same([self._alone(plain)], self._alone(spoiled), tolerance=1e-12)
        # and where such a row holds valid tokens
        seen = plain.with_inputs(x=replace(x, valid=x.valid | bad))
        assert_same([{"loss": self._alone(plain)["loss"]}], {"loss": self._alone(seen)["loss"]}, tolerance=1e-12)

    def test_padding_changes_nothing(self) -> None:
        """An item has the same views, masks and loss with invalid tokens behind its own."""
        plain = self.batch()
        x = plain.inputs["x"]
        assert isinstance(x, Packed)
        rows = [slice(a, b) for a, b in zip(x.offsets[:-1].tolist(), x.offsets[1:].tolist(), strict=True)]
        values, coords = (
            torch.cat([F.pad(v[at], (0, 0, 0, 16), value=7.0) for at in rows]) for v in (x.values, x.coords)
        )
        valid = torch.cat([F.pad(x.valid[at], (0, 16)) for at in rows])
        wider = Packed(values, valid, coords, x.offsets + 16 * torch.arange(len(x.offsets)))
        assert_same([self._alone(plain)], self._alone(plain.with_inputs(x=wider)), tolerance=1e-9)
