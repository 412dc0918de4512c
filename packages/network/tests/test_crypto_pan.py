from ipaddress import ip_address

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from unlabeled.network.privacy.crypto_pan import AT_ONCE, Bytes, CryptoPAn

# the key and the addresses of the authors' own sample trace
KEY = bytes.fromhex("1522178d33a4cf80130a5b1649907d10d8988f837979652762574c2d2a842202")
PUBLISHED = {
    "128.11.68.132": "135.242.180.132",
    "129.118.74.4": "134.136.186.123",
    "130.132.252.244": "133.68.164.234",
}


def packed(*addresses: str) -> Bytes:
    return np.array([list(ip_address(a).packed) for a in addresses], np.uint8)


def common(addresses: Bytes) -> np.ndarray:
    """(N, N) bits that each two share at their beginning."""
    bits = np.unpackbits(addresses, axis=1)
    differ = bits[:, None] != bits[None]
    return np.where(differ.any(2), differ.argmax(2), bits.shape[1])


def plain(address: bytes, key: bytes) -> bytes:
    """Bit by bit, as equation and figure 3 of the paper say it: no array, one block at a time."""
    aes = Cipher(algorithms.AES(key[:16]), modes.ECB())
    fill = int.from_bytes(aes.encryptor().update(key[16:]), "big")
    n, value, out = 8 * len(address), int.from_bytes(address, "big"), 0
    for i in range(n):
        block = (value >> (n - i)) << (128 - i) | fill & ((1 << (128 - i)) - 1)
        first = aes.encryptor().update(block.to_bytes(16, "big"))[0] >> 7
        out = out << 1 | (value >> (n - 1 - i) & 1) ^ first
    return out.to_bytes(len(address), "big")


def test_the_published_vectors() -> None:
    made = CryptoPAn(KEY)(packed(*PUBLISHED))
    assert [str(ip_address(row.tobytes())) for row in made] == list(PUBLISHED.values())


@pytest.mark.parametrize("width", [4, 16])
def test_every_pair_shares_as_long_a_prefix_as_before(width: int) -> None:
    # neighbours of every length: each address is the one before with its last bits drawn anew
    rng = np.random.default_rng(0)
    addresses = rng.integers(0, 256, (150, width), dtype=np.uint8)
    for i in range(1, len(addresses)):
        keep = int(rng.integers(0, 8 * width))
        bits = np.unpackbits(addresses[i])
        bits[:keep] = np.unpackbits(addresses[i - 1])[:keep]
        addresses[i] = np.packbits(bits)
    before = common(addresses)
    assert len(np.unique(before)) > 5 * width  # most lengths are there
    np.testing.assert_array_equal(common(CryptoPAn(KEY)(addresses)), before)


@pytest.mark.parametrize("width", [4, 16])
def test_equals_the_paper_bit_by_bit(width: int) -> None:
    addresses = np.random.default_rng(1).integers(0, 256, (5, width), dtype=np.uint8)
    expected = [list(plain(row.tobytes(), KEY)) for row in addresses]
    np.testing.assert_array_equal(CryptoPAn(KEY)(addresses), np.array(expected))


def test_a_network_of_65536_addresses_is_mapped_one_to_one_into_another() -> None:
    tail = np.arange(1 << 16)
    addresses = np.stack([np.full_like(tail, 10), np.full_like(tail, 20), tail >> 8, tail & 255], 1).astype(np.uint8)
    assert len(addresses) > AT_ONCE
    made = CryptoPAn(KEY)(addresses)
    assert len(np.unique(made, axis=0)) == 1 << 16
    assert len(np.unique(made[:, :2], axis=0)) == 1
    np.testing.assert_array_equal(made[[7, 40000]], CryptoPAn(KEY)(addresses[[7, 40000]]))


def test_order_repeats_and_emptiness() -> None:
    twice = packed("10.0.0.2", "10.0.0.1", "10.0.0.2")
    made = CryptoPAn(KEY)(twice)
    assert (made[0] == made[2]).all()
    assert (made[0] != made[1]).any()
    assert CryptoPAn(KEY)(np.zeros((0, 16), np.uint8)).shape == (0, 16)


def test_another_key_is_another_map_and_a_short_one_is_refused() -> None:
    addresses = packed(*PUBLISHED)
    assert (CryptoPAn(bytes(32))(addresses) != CryptoPAn(KEY)(addresses)).any(1).all()
    with pytest.raises(ValueError, match="31 bytes, where 32 are needed"):
        CryptoPAn(bytes(31))
