"""What is counted of a flow beside its tokens: statistics for strong simple baselines, shortcuts for `leakcheck`."""

from __future__ import annotations

# by the client and back: suffixes 0 and 1
_EACH = ("packets", "bytes", "payload", "length mean", "length deviation", "length least", "length most", "gap mean", "gap deviation",
         "gap least", "gap most", "bytes per second", "pushed")  # fmt: skip
NAMES: tuple[str, ...] = (
    "duration",
    "bursts",
    "packets per second",
    "share of bytes back",
    *(f"{name} {way}" for name in _EACH for way in (0, 1)),
)
SHORTCUTS: tuple[str, ...] = (
    *("port least", "port most", "port of the client", "port of the server"),
    *("ttl 0", "ttl 1"),
    *("identifier", "seq", "window 0", "window 1"),
    *(f"address {end} byte {i}" for end in (0, 1) for i in range(4)),
    *(f"byte {i}" for i in range(12)),
)
