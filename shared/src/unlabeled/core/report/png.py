"""The least of PNG (ISO/IEC 15948): 8-bit grey or RGB, one data chunk."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB = 0, 2


def png(pixels: NDArray[np.uint8]) -> bytes:
    """pixels (H, W) grey or (H, W, 3) RGB."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, GREY if pixels.ndim == 2 else RGB, 0, 0, 0)
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))  # filter 0 before every row
    return (
        SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)) + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def data_uri(pixels: NDArray[np.uint8]) -> str:
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def shades(x: NDArray[np.floating], low: float, high: float) -> NDArray[np.uint8]:
    """x (1 | 2, H, W) as grey by its first channel, (3, H, W) as RGB; low is 0 and high 255; NaN is mid grey."""
    part = np.moveaxis(x, 0, -1) if len(x) == 3 else x[0]
    scaled = (part - low) / ((high - low) or 1.0)
    return np.where(np.isnan(part), 128, np.clip(scaled, 0, 1) * 255).round().astype(np.uint8)
