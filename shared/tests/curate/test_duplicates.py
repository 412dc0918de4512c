"""Planted copies of real tiles are found, and what only looks alike is not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from unlabeled.core.contracts import RequestError
from unlabeled.core.curate import duplicates
from unlabeled.core.curate.collection import Collection
from unlabeled.core.curate.duplicates import Duplicates
from unlabeled.core.curate.pictures import from_arrays

_spec = importlib.util.spec_from_file_location("planted", Path(__file__).with_name("conftest.py"))
planted = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(planted)


def dropped(collection: Collection, kept: np.ndarray | None = None, **options) -> dict[str, str]:
    """key of what is dropped -> key of what is kept in its place"""
    kept = np.ones(len(collection), bool) if kept is None else kept
    found = Duplicates(Duplicates.Options(**options)).run(collection, kept)
    assert len({d.item for d in found}) == len(found)
    gone = {d.item for d in found}
    assert all(d.like not in gone and kept[d.like] and kept[d.item] for d in found)
    return {collection.keys[d.item]: collection.keys[d.like] for d in found}


def test_planted_copies(tiles: list[np.ndarray]) -> None:
    """Of 6 copies of each of n tiles: all exact ones, at least 0.99 of every other kind, at most 1 % false.

    False: dropped in favour of another tile than the one it is a copy of.
    """
    draw = np.random.default_rng(0)
    n = len(tiles)
    assert n > 300
    pictures, keys = list(tiles), [f"a-{i}" for i in range(n)]
    for kind, made in planted.COPIES.items():
        pictures += [made(tile, draw) for tile in tiles]
        keys += [f"{kind}-{i}" for i in range(n)]
    found = dropped(from_arrays(pictures, keys))
    false = [k for k, like in found.items() if k.split("-")[1] != like.split("-")[1]]
    assert len(false) <= 0.01 * len(found)
    recall = {kind: sum(f"{kind}-{i}" in found for i in range(n)) / n for kind in planted.COPIES}
    print(n, recall, len(false), len(found))
    assert recall["exact"] == 1.0
    assert all(r >= 0.99 for r in recall.values()), recall
    assert not any(k.startswith("a-") for k in found)  # of equal sizes the first key stays


def words(seed: int, text: list[str]) -> np.ndarray:
    """A page of the same layout as every other, of other words."""
    draw = np.random.default_rng(seed)
    page = Image.new("RGB", (600, 800), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(14)
    for line in range(40):
        row = ""
        while pen.textlength(row, font) < 480:
            row += f"{text[draw.integers(len(text))]} "
        pen.text((40, 40 + 18 * line), row, "black", font)
    return np.asarray(page)


def test_what_looks_alike_is_not_merged() -> None:
    """Gradients, blank scans with their noise, pages of text in one layout: 20 each, and no pair is the same."""
    ramp = np.linspace(0, 1, 256)
    text = [w for w in Path(__file__).read_text().split() if w.isalpha()]
    pictures, keys = [], []
    for i in range(20):
        draw = np.random.default_rng(i)
        gradient = np.tile(20 + (150 + 3 * i) * ramp, (256, 1))
        noisy = np.tile(20 + 200 * ramp, (256, 1)) + draw.normal(0, 2, (256, 256))
        blank = 245 + draw.normal(0, 3, (256, 256))
        pictures += [np.clip(x, 0, 255).astype(np.uint8) for x in (gradient, noisy, blank)] + [words(i, text)]
        keys += [f"{kind}-{i}" for kind in ("gradient", "noisy", "blank", "page")]
    assert dropped(from_arrays(pictures, keys)) == {}


def test_which_one_stays(photos: dict[str, np.ndarray]) -> None:
    """The largest; of equal sizes the smallest key."""
    cat = photos["chelsea.png"]
    worse = planted.coded(cat, "JPEG", quality=50)
    collection = from_arrays([planted.half(cat), worse, cat, photos["coffee.png"]], ["a", "c", "b", "d"])
    assert dropped(collection) == {"a": "b", "c": "b"}
    kept = np.array([True, True, False, True])  # what is gone takes no part
    assert dropped(collection, kept) == {"a": "c"}


def test_no_chain(photos: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """a ~ b, b ~ c, a !~ c: b goes for a, and c stays, though single links join all three."""
    pairs = {(0, 1), (1, 2)}
    monkeypatch.setattr(
        duplicates._Content,
        "__call__",
        lambda self, a, b: np.array([1.0 if p in pairs else -1.0 for p in zip(a, b, strict=True)]),
    )
    cat = photos["chelsea.png"]
    copies = [cat, planted.coded(cat, "JPEG", quality=90), planted.coded(cat, "JPEG", quality=80)]
    assert dropped(from_arrays(copies, ["a", "b", "c"])) == {"b": "a"}


def test_by_embedding(photos: dict[str, np.ndarray]) -> None:
    """A near embedding is a candidate, and is dropped where the content agrees, or where nobody asks for the content."""
    cat, cup = photos["chelsea.png"], photos["coffee.png"]
    collection = from_arrays([cat, planted.coded(cat, "JPEG", quality=50), cup[:200, :200]], ["a", "b", "c"])
    with pytest.raises(RequestError, match="duplicates needs embeddings"):
        dropped(collection, by=("embedding",))
    known = collection.with_(np.array([[1, 0], [1, 0.01], [1, 0.1]], np.float32))
    assert dropped(known, by=("embedding",), cosine=0.99) == {"b": "a"}
    assert dropped(known, by=("embedding",), cosine=0.99, content=False) == {
        "b": "a",
        "c": "a",
    }  # 1 / sqrt(1.01) = 0.995
    assert dropped(known, by=("embedding",), cosine=0.9999, content=False) == {"b": "a"}


def test_colour_tells(photos: dict[str, np.ndarray]) -> None:
    """The same brightness in another colour is another picture."""
    cat = photos["chelsea.png"]
    grey = np.asarray(Image.fromarray(cat).convert("L").convert("RGB"))
    assert dropped(from_arrays([cat, grey], ["a", "b"])) == {}


def test_too_many_alike_lower_the_distance(photos: dict[str, np.ndarray], monkeypatch, caplog) -> None:
    cat = photos["chelsea.png"]
    many = from_arrays([planted.coded(cat, "JPEG", quality=q) for q in range(40, 60)], [f"{q}" for q in range(20)])
    assert len(dropped(many)) == 19
    monkeypatch.setattr(duplicates, "MOST", 50)
    dropped(many)
    assert "the distance is lowered to 0 bits" in caplog.text
