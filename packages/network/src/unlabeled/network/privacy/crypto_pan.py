"""Crypto-PAn: addresses that share their first k bits, before and after, and no more.

Xu, Fan, Ammar and Moon 2002, Prefix-Preserving IP Address Anonymization: Measurement-Based Security Evaluation and a New
Cryptography-Based Scheme, section 3. Bit i of the result is bit i of the address, turned by a keyed function of the i bits
before it; so the map is one to one, and a prefix of the addresses is a prefix of the results.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

KEY = 32  # bytes
AT_ONCE = 1 << 11  # addresses whose prefixes are in memory at once: of IPv6 each takes 16 KiB

Bytes = NDArray[np.uint8]


class CryptoPAn:
    """The map of one key: 16 bytes for AES, and 16 that AES turns into what fills up a prefix."""

    def __init__(self, key: bytes) -> None:
        """Raises ValueError for a key that has not 32 bytes."""
        if len(key) != KEY:
            raise ValueError(f"a key of {len(key)} bytes, where {KEY} are needed")
        self._aes = Cipher(algorithms.AES(key[:16]), modes.ECB())
        self._fill = np.frombuffer(self._encrypted(key[16:]), np.uint8)

    def __call__(self, addresses: Bytes) -> Bytes:
        """(N, 4) or (N, 16) bytes of addresses, the first byte first, to as many others; equal ones are worked out once."""
        width = addresses.shape[1]
        whole = np.ascontiguousarray(addresses, np.uint8).view(f"V{width}")[:, 0]
        unique, back = np.unique(whole, return_inverse=True)
        bits = np.unpackbits(unique.view(np.uint8).reshape(-1, width), axis=1)
        parts = [self._turned(bits[i : i + AT_ONCE]) for i in range(0, len(bits), AT_ONCE)]
        turned = np.concatenate([np.zeros((0, 8 * width), np.uint8), *parts])
        return np.packbits(bits ^ turned, axis=1)[back.reshape(-1)]

    def _turned(self, bits: Bytes) -> Bytes:
        """(N, n) which bits change: of each prefix of 0 to n - 1 bits, filled up to 128, the first bit of its encryption."""
        n = bits.shape[1]
        block = np.broadcast_to(np.unpackbits(self._fill), (len(bits), n, 128)).copy()
        known = np.tri(n, n, -1, bool)  # row i knows the bits before i
        block[:, :, :n] = np.where(known, bits[:, None, :], block[:, :, :n])
        done = np.frombuffer(self._encrypted(np.packbits(block, axis=2).tobytes()), np.uint8)
        return np.asarray(done.reshape(len(bits), n, 16)[:, :, 0] >> 7, np.uint8)

    def _encrypted(self, blocks: bytes) -> bytes:
        return self._aes.encryptor().update(blocks)
