"""The oracles of Less is More, on made hashes and on real pictures."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from unlabeled.core.contracts import RequestError
from unlabeled.core.curate.collection import Collection
from unlabeled.core.curate.hashes import count, dhash, hamming
from unlabeled.core.curate.pictures import from_arrays
from unlabeled.core.curate.redundancy import Redundancy, mutual, natural, ssim


def kept(collection: Collection, before: np.ndarray | None = None, **options) -> np.ndarray:
    left = np.ones(len(collection), bool) if before is None else before.copy()
    for decision in Redundancy(Redundancy.Options(**options)).run(collection, left.copy()):
        assert left[decision.item]
        left[decision.item] = False
    return left


def frames(photo: np.ndarray, n: int) -> list[np.ndarray]:
    """A window that moves over a real picture by 4 pixels a time."""
    return [photo[50:178, 4 * i : 4 * i + 128] for i in range(n)]


@pytest.fixture(scope="module")
def video(photos: dict[str, np.ndarray]) -> Collection:
    """Two groups of 40 frames."""
    both = [*frames(photos["chelsea.png"], 40), *frames(photos["coffee.png"], 40)]
    return from_arrays(both, [f"{g}/frame_{i}" for g in "ab" for i in range(40)], ["a"] * 40 + ["b"] * 40)


@pytest.mark.parametrize("shape", [(4096,), (64, 64), (16, 16, 16)])
def test_hashes_of_ramps(shape: tuple[int, ...]) -> None:
    """A ramp along the last axis rises between all neighbours: 64 ones; its mirror image falls: none; so 64 bits differ."""
    ramp = np.broadcast_to(np.linspace(0, 255, shape[-1]), shape).astype(np.uint8)[None]
    mirror = ramp[..., ::-1]
    assert count(dhash(ramp)).tolist() == [64]
    assert hamming(dhash(ramp), dhash(mirror)).tolist() == [64]
    assert dhash(np.full((1, *shape), 77, np.uint8)).tolist() == [0]  # nothing rises


def test_hashes_do_not_see_brightness(photos: dict[str, np.ndarray]) -> None:
    """0.5 x + 60 keeps every order but that of steps below two levels, which become less than one: few bits turn."""
    cat = photos["chelsea.png"]
    darker = (cat * 0.5 + 60).astype(np.uint8)
    grey = from_arrays([cat, darker], ["a", "b"]).grey
    assert hamming(dhash(grey)[:1], dhash(grey)[1:])[0] <= 2


@pytest.mark.parametrize("limit", [0, 6, 20, 64])
def test_greedy_leader(video: Collection, limit: int) -> None:
    """All that are kept differ by more than the limit from those of their group, and all others from one by no more."""
    left = kept(video, limit=limit)
    hashes = dhash(np.asarray(video.grey))
    for group in (slice(0, 40), slice(40, 80)):
        own, stays = hashes[group], left[group]
        far = hamming(own[stays][:, None], own[stays][None])
        assert (far[~np.eye(len(far), dtype=bool)] > limit).all()
        if (~stays).any():
            assert (hamming(own[~stays][:, None], own[stays][None]).min(1) <= limit).all()
        if limit == 64:
            assert stays.tolist() == [True] + [False] * 39
        if limit == 0:
            assert stays.sum() == len(np.unique(own))
    assert np.array_equal(left, kept(video, limit=limit))
    assert np.array_equal(left, kept(video, left, limit=limit))  # a second time drops nothing


def test_each_drop_names_its_exemplar(video: Collection) -> None:
    hashes = dhash(np.asarray(video.grey))
    left = kept(video)
    assert 4 < left.sum() < 60
    for d in Redundancy(Redundancy.Options()).run(video, np.ones(80, bool)):
        assert left[d.like] and d.score == hamming(hashes[d.item], hashes[d.like]) <= 6
        assert video.groups[d.item] == video.groups[d.like]


def test_groups_do_not_see_each_other(photos: dict[str, np.ndarray], video: Collection) -> None:
    alone = from_arrays(frames(photos["chelsea.png"], 40), [f"frame_{i}" for i in range(40)])
    assert np.array_equal(kept(video)[:40], kept(alone))


def test_ten_comes_after_two(photos: dict[str, np.ndarray]) -> None:
    """Of three equal items the first by number stays, though _10 is before _2 as text."""
    cat = photos["chelsea.png"]
    assert kept(from_arrays([cat, cat, cat], ["s/_10", "s/_2", "s/_3"])).tolist() == [False, True, False]
    names = ["a1b10", "a1b2", "a01b2", "a", "b", "10", "9"]
    assert sorted(names, key=natural) == ["9", "10", "a", "a01b2", "a1b2", "a1b10", "b"]


def test_constant_items(photos: dict[str, np.ndarray]) -> None:
    air = np.zeros((50, 50), np.uint8)
    found = from_arrays([air, photos["chelsea.png"], air + 200], ["0", "1", "2"])
    assert kept(found).tolist() == [False, True, False]
    assert kept(found, constant="keep").tolist() == [True, True, False]  # both hash to 0


def test_ssim_as_scikit_image(video: Collection) -> None:
    grey = np.asarray(video.grey)
    theirs = [structural_similarity(grey[0], x, data_range=255) for x in grey[:6]]
    assert np.allclose(ssim(grey[:1], grey[:6]), theirs, atol=1e-9)


def test_mutual_information() -> None:
    """Equal: 1. Two values at equal chance and independent, all four pairs as often: 0. A function of the other: still 1."""
    x = np.zeros((1, 64, 64), np.uint8)
    x[:, :, 32:] = 255
    y = x.transpose(0, 2, 1)
    assert np.allclose(mutual(x, np.concatenate([x, y, 255 - x])), [1, 0, 1])


@pytest.mark.parametrize(("similarity", "limit"), [("ssim", 0.6), ("mi", 0.3), ("embedding", 0.9)])
def test_other_similarities(video: Collection, similarity: str, limit: float) -> None:
    """The invariants of the greedy leader, with `at least` in place of `at most`."""
    with_embeddings = video.with_(video.grey.reshape(80, -1).astype(np.float32) - 128)
    left = kept(with_embeddings, similarity=similarity, limit=limit)
    assert 2 <= left.sum() < 80
    assert np.array_equal(left, kept(with_embeddings, left, similarity=similarity, limit=limit))
    if similarity == "embedding":
        with pytest.raises(RequestError, match="needs embeddings"):
            kept(video, similarity=similarity)
