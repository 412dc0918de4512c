"""Damaged captures: seeded mutations of real and generated files, and what must hold of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import numpy as np

from unlabeled.core.contracts import BadInput
from unlabeled.network import capture
from unlabeled.network.capture import containers, decode
from unlabeled.network.capture.links import REASONS
from unlabeled.network.capture.packets import Packets
from unlabeled.network.capture.window import Frames

NDPI = Path(__file__).parents[4] / "../shared/data/ndpi"
MOST = 6_000  # bytes of a seed, so that a mutation hits headers
EXTREMES = (0, 1, 3, 4, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFF, 0x8000, 0x40000, 0x40001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def real() -> list[Path]:
    """The captures of the real set; none where it is absent."""
    if not NDPI.is_dir():
        return []
    return sorted(p for p in NDPI.iterdir() if p.suffix in (".pcap", ".pcapng", ".cap") and p.is_file())


def seeds(generated: list[Path]) -> list[bytes]:
    """The starts of generated and real captures."""
    return [path.read_bytes()[:MOST] for path in [*generated, *real()]]


def mutated(pool: list[bytes], rng: np.random.Generator) -> bytes:
    """One of the pool, damaged once to four times."""
    data = bytearray(pool[rng.integers(len(pool))])
    for _ in range(rng.integers(1, 5)):
        _DAMAGES[rng.integers(len(_DAMAGES))](data, pool, rng)
    return bytes(data)


def _flip(data: bytearray, pool: list[bytes], rng: np.random.Generator) -> None:
    for at in rng.integers(0, max(len(data), 1), rng.integers(1, 30)).tolist():
        if at < len(data):
            data[at] = int(rng.integers(256))


def _cut(data: bytearray, pool: list[bytes], rng: np.random.Generator) -> None:
    del data[int(rng.integers(len(data) + 1)) :]


def _splice(data: bytearray, pool: list[bytes], rng: np.random.Generator) -> None:
    other = pool[rng.integers(len(pool))]
    start, n, at = int(rng.integers(len(other) + 1)), int(rng.integers(200)), int(rng.integers(len(data) + 1))
    data[at : at + int(rng.integers(2)) * n] = other[start : start + n]


def _drop(data: bytearray, pool: list[bytes], rng: np.random.Generator) -> None:
    at = int(rng.integers(len(data) + 1))
    del data[at : at + int(rng.integers(100))]


def _length(data: bytearray, pool: list[bytes], rng: np.random.Generator) -> None:
    """Extreme numbers of one, two or four bytes, where lengths may stand."""
    for _ in range(rng.integers(1, 6)):
        size, value = (1, 2, 4)[rng.integers(3)], EXTREMES[rng.integers(len(EXTREMES))]
        at = int(rng.integers(max(len(data) - 4, 1)))
        order = "little" if rng.integers(2) else "big"
        data[at : at + size] = (value & (256**size - 1)).to_bytes(size, order)  # type: ignore[arg-type]


_DAMAGES: tuple[Callable[[bytearray, list[bytes], np.random.Generator], None], ...] = (
    _flip,
    _cut,
    _splice,
    _drop,
    _length,
)


def differing(a: Packets, b: Packets) -> list[str]:
    """The columns in which they differ, in type, shape or a value."""
    pairs = [(f.name, getattr(a, f.name), getattr(b, f.name)) for f in fields(Packets)]
    return [name for name, x, y in pairs if x.dtype != y.dtype or not np.array_equal(x, y)]


def whole(found: capture.Capture) -> Packets:
    """All packets of a capture."""
    return Packets.joined([Packets.empty(0, found.options), *found])


def alone(frames: Frames, poison: int) -> Frames:
    """The same frames, each between bytes that belong to none; the last frame ends with the data."""
    parts, at, n = [], [], 0
    for start, size in zip(frames.at.tolist(), frames.captured.tolist(), strict=True):
        parts += [np.full(80, poison, np.uint8), frames.data[start : start + size]]
        at.append(n + 80)
        n += 80 + size
    data = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    return Frames(data, np.array(at, np.int64), frames.captured, frames.sent, frames.time, frames.link)


def checked(path: Path, tunnels: bool = True, compiled: bool = True) -> str:
    """Reads a damaged capture in every way. "" or the BadInput; any other fault is an exception."""
    said, results = [], []
    for fast in (False, True) if compiled else (False,):
        found = capture.read(path, options=True, tunnels=tunnels, fast=fast)
        try:
            packets = whole(found)
        except BadInput as error:
            said.append(str(error))
            continue
        assert len(packets) == found.counts["packets"], "packets are counted wrongly"
        assert sum(found.counts[r] for r in REASONS) + len(packets) == found.counts["frames"], "frames are lost"
        assert (np.diff(packets.frame) > 0).all() and (packets.time >= 0).all()
        assert (packets.held <= packets.payload_length).all() and (packets.held <= packets.captured).all()
        results.append((packets, found.counts, found.flags))
    if said:
        assert len(set(said)) == 1 and not results, f"numpy and numba differ: {said}"
        return said[0]
    first = results[0]
    for other in results[1:]:
        assert not differing(first[0], other[0]), f"numpy and numba differ in {differing(first[0], other[0])}"
        assert first[1:] == other[1:], f"numpy and numba differ: {first[1:]} and {other[1:]}"
    number, parts = 0, [Packets.empty(0, True)]
    for frames in containers.frames(path, 1 << 20, []):
        parts.append(_decoder(compiled)(alone(frames, 0xA5), number, True, tunnels)[0])
        number += len(frames)
    assert not differing(first[0], Packets.joined(parts)), "what stands around a frame has been read"
    return ""


def _decoder(compiled: bool) -> Callable[..., tuple[Packets, np.ndarray]]:
    if not compiled:
        return decode.decode
    from unlabeled.network.capture import decode_fast

    return decode_fast.decode
