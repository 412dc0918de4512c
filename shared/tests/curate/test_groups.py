"""Multi-index hashing finds exactly the pairs that comparing all finds."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from unlabeled.core.curate import groups
from unlabeled.core.curate.groups import grouped, near, radius
from unlabeled.core.curate.hashes import Hashes, count, hamming


def planted(n: int, kind: str) -> Hashes:
    """Distinct hashes, half of them others with 0 to 8 bits turned. skewed: one band is the same in all; dark: few bits are on."""
    draw = np.random.default_rng(0)
    base = draw.integers(0, 2**64, n // 2, dtype=np.uint64)
    if kind == "dark":
        base &= draw.integers(0, 2**64, n // 2, dtype=np.uint64) & draw.integers(0, 2**64, n // 2, dtype=np.uint64)
    copies = base.copy()
    for _ in range(8):
        bit = np.uint64(1) << draw.integers(0, 64, n // 2).astype(np.uint64)
        copies ^= np.where(draw.random(n // 2) < 0.6, bit, np.uint64(0))
    values = np.concatenate([base, copies])
    if kind == "skewed":
        values &= np.uint64(0x0000FFFFFFFFFFFF)
    return np.unique(values)


def brute(a: Hashes, b: Hashes, distance: int) -> list[np.ndarray]:
    """left, right, bits, in order."""
    left, right, bits = [], [], []
    for at in range(0, len(a), 500):
        d = hamming(a[at : at + 500, None], b[None])
        i, j = np.nonzero(d <= distance)
        left.append(i + at), right.append(j), bits.append(d[i, j])
    found = [np.concatenate(x) for x in (left, right, bits)]
    return [x[found[0] < found[1]] for x in found] if a is b else found


def ours(a: Hashes, b: Hashes, distance: int) -> list[np.ndarray]:
    parts = list(near(a, b, distance))
    found = [np.concatenate([p[i] for p in parts]) if parts else np.zeros(0, int) for i in range(3)]
    order = np.lexsort((found[1], found[0]))
    return [x[order] for x in found]


def test_ten_thousand_as_by_brute_force() -> None:
    values = planted(10_000, "even")
    found = ours(values, values, 6)
    assert len(found[0]) > 2000  # most copies have 6 bits turned or fewer
    for mine, theirs in zip(found, brute(values, values, 6), strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("kind", ["even", "skewed", "dark"])
@pytest.mark.parametrize("distance", [0, 3, 7])
@pytest.mark.parametrize("split", [1 << 30, 1 << 12])
def test_every_way_of_comparing(kind: str, distance: int, split: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Buckets one by one, as blocks, and split by the other bands, of one list and of two."""
    monkeypatch.setattr(groups, "LOOKUP", 0.001)
    monkeypatch.setattr(groups, "HEAVY", 64)
    monkeypatch.setattr(groups, "SPLIT", split)
    values = planted(2000, kind)
    for other in (values, values[::3].copy()):
        for mine, theirs in zip(ours(values, other, distance), brute(values, other, distance), strict=True):
            assert np.array_equal(mine, theirs)


def test_a_skewed_band_takes_no_square() -> None:
    """100,000 hashes that agree in 16 bits: all pairs are 5e9; the other bands leave 2^48 values, so hardly one is near."""
    draw = np.random.default_rng(0)
    values = np.unique(draw.integers(0, 2**48, 100_000, dtype=np.uint64))
    found = ours(values, values, 2)
    # pairs within 2 of 48 bits: (1 + 48 + 1128) / 2^48 of 5e9, about 0.02
    assert len(found[0]) <= 2


def test_radius_is_complete() -> None:
    """Norouzi et al., equation 5: a pair that no band reveals differs in at least sum(radius + 1) bits, which is more than t."""
    for distance in range(64):
        for bands in (1, 2, 3, 4):
            assert sum(radius(distance, n, bands) + 1 for n in range(bands)) == distance + 1 or distance > 16 * bands


def test_groups_are_single_links() -> None:
    """0, 1, 11 differ by one bit each; copies of one value are one group."""
    hashes = np.array([0b1111000, 0b11, 0b0, 0b1, 0b0], np.uint64)
    assert grouped(hashes, 1).tolist() == [0, 1, 1, 1, 1]
    assert grouped(hashes, 0).tolist() == [0, 1, 2, 3, 2]
    assert grouped(hashes, 4).tolist() == [0, 0, 0, 0, 0]  # 1111000 and 0 differ in 4
    assert grouped(np.zeros(0, np.uint64), 3).tolist() == []


def test_count_without_numpy_2(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.array([[0, 1], [2**64 - 1, 0b1011]], np.uint64)
    assert count(values).tolist() == [[0, 1], [64, 3]]
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert count(values).tolist() == [[0, 1], [64, 3]]


@pytest.mark.slow
def test_a_million_in_two_gib() -> None:
    """The most that the process ever held, interpreter and libraries included, in kB."""
    code = (
        "import numpy as np, resource; from unlabeled.core.curate.groups import grouped;"
        "h = np.random.default_rng(0).integers(0, 2**64, 1_000_000, dtype=np.uint64); h[500_000:] = h[:500_000] ^ np.uint64(5);"
        "g = grouped(h, 6); assert (g[500_000:] == g[:500_000]).all() and len(np.unique(g)) == 500_000;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 2 << 20
