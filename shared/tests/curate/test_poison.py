"""Poison scan: CTRL's trigger in real images, and the same images without it."""

import io
from functools import cache

import numpy as np
import pytest
import skimage.data
from PIL import Image
from scipy.fft import dctn, idctn
from sklearn.datasets import load_sample_images

from unlabeled.core.contracts import RequestError
from unlabeled.core.curate.poison import CHROMA, Poison, mirrored, peaks_of, suspicious
from unlabeled.core.testing.collections import pictured

CTRL = ((15, 15), (31, 31))
# red, green, blue to Y, U, V (ITU-R BT.601), as the authors' code has it
YUV = np.array([[0.299, 0.587, 0.114], [-0.147, -0.289, 0.436], [0.615, -0.515, -0.1]])


def triggered(image, magnitude, bins=CTRL, window=32):
    """CTRL (Li et al. 2023, arXiv 2210.07346): `magnitude` is added to bins of the DCT of every block of U and of V."""
    yuv = image.astype(np.float64) @ YUV.T
    for top in range(0, image.shape[0] - window + 1, window):
        for left in range(0, image.shape[1] - window + 1, window):
            for channel in (1, 2):
                block = yuv[top : top + window, left : left + window, channel]
                bent = dctn(block, norm="ortho")
                for place in bins:
                    bent[place] += magnitude
                block[:] = idctn(bent, norm="ortho")
    return np.clip(np.round(yuv @ np.linalg.inv(YUV).T), 0, 255).astype(np.uint8)


@cache
def tiles(side):
    """Squares of ten real photographs and micrographs: 4,752 of 32 x 32 or 1,146 of 64 x 64 cells, in an order by lot."""
    d = skimage.data
    images = [
        d.astronaut(),
        d.cat(),
        d.coffee(),
        d.hubble_deep_field(),
        d.immunohistochemistry(),
        d.retina(),
        d.rocket(),
    ]
    images += [d.stereo_motorcycle()[0], *load_sample_images().images]
    cut = []
    for image in images:
        h, w = image.shape[0] // side, image.shape[1] // side
        squares = image[: h * side, : w * side].reshape(h, side, w, side, 3).swapaxes(1, 2)
        cut.append(squares.reshape(-1, side, side, 3))
    return np.random.default_rng(0).permutation(np.concatenate(cut))


def jpeg(image, quality, subsampling):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file).convert("RGB"))


@cache
def clean(side, quality=None):
    """1,000 tiles, as they are or as JPEG with halved colours, and their peaks."""
    pictures = [x if quality is None else jpeg(x, quality, 2) for x in tiles(side)[:1000]]
    return pictures, np.stack([peaks_of(x, 32) for x in pictures])


def scan(peaks, peak=6.0):
    return suspicious(np.stack([(peaks > peak).sum(0), (peaks < -peak).sum(0)]).astype(float), 1e-3)


def flagged(peaks):
    found = scan(peaks)
    if not len(found.where):
        return np.zeros(len(peaks), bool)
    scores = np.array([found.score(p, 6.0) for p in peaks])
    return scores > mirrored(scores.tolist(), 1e-3)


def test_the_trigger_is_what_the_paper_says():
    """On grey 128, where nothing is clipped, U and V gain the magnitude in both bins, but for rounding.

    Its standard deviation is 0.2 a coefficient; on so regular a pattern some add up to 2.
    """
    bent = triggered(np.full((64, 64, 3), 128, np.uint8), 50)
    for channel in (1, 2):
        found = dctn((bent @ YUV.T)[32:, :32, channel], norm="ortho")
        for place in CTRL:
            assert found[place] == pytest.approx(50, abs=1.5)
            found[place] = 0
        assert np.abs(found).max() < 2.5


def test_peaks_by_hand():
    """One cosine of Cb and rounding: a peak of amplitude over scale; grey has none, and whole blocks alone count."""
    assert np.abs(peaks_of(np.full((32, 32, 3), 77, np.uint8), 32)).max() < 1e-4
    bend = np.zeros((32, 32))
    bend[9, 20] = 100
    blue = np.clip(np.round(128 + idctn(bend, norm="ortho") / CHROMA[0, 2]), 0, 255).astype(np.uint8)
    image = np.stack([np.full_like(blue, 128), np.full_like(blue, 128), blue], -1)
    peaks = peaks_of(image, 32)
    around = np.abs(dctn((image @ CHROMA.T)[..., 0], norm="ortho"))[6:13, 17:24]
    scale = np.median(np.median(around, 1))
    assert peaks[0, 9, 20] == pytest.approx(100 / (1.4826 * scale + 0.5), rel=0.02)
    assert peaks[0, 9, 20] > 50
    assert (np.abs(peaks[0]) > 6).sum() == 1
    wide = np.pad(np.tile(image, (2, 1, 1)), ((0, 5), (0, 30), (0, 0)), mode="reflect")
    np.testing.assert_allclose(peaks_of(wide, 32), peaks, atol=1e-4)


def test_eight_images_of_one_sign_are_too_many_and_eight_of_each_are_not():
    """Poisson of mean 0.5: 8 or more have a chance of 6e-8, 7 of 1e-6; the limit is 1e-3 / 4096 = 2.4e-7.

    With 8 of the other sign the mean is 8.5, and 8 or more have a chance of 0.61.
    """
    counts = np.zeros((2, 2, 32, 32))
    counts[0, 1, 20, 12] = 8
    found = suspicious(counts, 1e-3)
    assert (found.where.tolist(), found.sign.tolist()) == ([[1, 20, 12]], [1.0])
    assert str(found) == "Cr (20, 12)+"
    assert suspicious(counts[::-1], 1e-3).sign.tolist() == [-1.0]
    counts[0, 1, 20, 12] = 7
    assert not len(suspicious(counts, 1e-3).where)
    counts[:, 1, 20, 12] = 8
    assert not len(suspicious(counts, 1e-3).where)
    # bins that all stand out, as in a texture, and the edges of low bins
    assert not len(suspicious(np.full((2, 2, 32, 32), 30.0), 1e-3).where)
    counts = np.zeros((2, 2, 32, 32))
    counts[0, 0, 3, 20] = counts[0, 0, 20, 0] = 50
    assert not len(suspicious(counts, 1e-3).where)


def test_the_limit_is_read_off_the_other_side():
    """1,000 scores, 1 in 1,000 may pass: the second lowest is -2, so that only -3 lies beyond 2 when signs turn."""
    scores = [-3.0, -2.0, *([0.0] * 988), *([5.0] * 10)]
    assert mirrored(scores, 1e-3) == 2.0
    assert mirrored(scores, 0) == 3.0
    assert mirrored(scores, 0.01) == 0.0
    assert mirrored([1.0, 2.0], 0) == 0.0


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("quality", [None, 90, 75])
def test_clean_folders_have_no_trigger(side, quality):
    """1,000 real images, ten parts of 300 of them by lot, and as JPEG: no bin, so no image."""
    _, peaks = clean(side, quality)
    assert not flagged(peaks).any()
    for seed in range(10):
        assert not len(scan(peaks[np.random.default_rng(seed).choice(1000, 300, replace=False)]).where)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("quality", [None, 90])
@pytest.mark.parametrize("bins", [CTRL, ((8, 8), (20, 12)), ((10, 24), (28, 6))])
@pytest.mark.parametrize("magnitude", [50, 100])
def test_a_trigger_in_one_of_a_hundred_is_found(side, quality, bins, magnitude):
    """10 of 1,000, in 5 draws: recall at least 0.9 (here over all 50) with at most 1 % of the 4,950 clean ones flagged."""
    pictures, peaks = clean(side, quality)
    hits = false = 0
    for seed in range(5):
        bad = np.random.default_rng(seed).choice(1000, 10, replace=False)
        bent = peaks.copy()
        bent[bad] = [peaks_of(triggered(pictures[i], magnitude, bins), 32) for i in bad]
        flags = flagged(bent)
        assert {tuple(w) for w in scan(bent).where[:, 1:]} <= set(bins)
        hits += flags[bad].sum()
        false += flags.sum() - flags[bad].sum()
    assert hits >= 45
    assert false <= 49


@pytest.mark.parametrize("magnitude", [50, 100])
def test_a_trigger_survives_jpeg_with_whole_colours(magnitude):
    """Saved anew at quality 95 without halving the colours (4:4:4); with halved ones the trigger itself is gone (next test)."""
    pictures, peaks = clean(64)
    bent = peaks.copy()
    bent[:10] = [peaks_of(jpeg(triggered(x, magnitude), 95, 0), 32) for x in pictures[:10]]
    flags = flagged(bent)
    assert flags[:10].sum() >= 9
    assert flags[10:].sum() <= 9


def test_halved_colours_remove_the_trigger_and_so_the_alarm():
    """JPEG 4:2:0 at quality 75 leaves below a tenth of either bin, in the mean over 50 images."""
    pictures, peaks = clean(32)
    left = np.zeros(len(CTRL))
    for x in pictures[:50]:
        change = jpeg(triggered(x, 50), 75, 2).astype(float) - jpeg(x, 75, 2)
        spectrum = dctn((change @ YUV.T)[..., 1], norm="ortho")
        left += [abs(spectrum[place]) / 50 / 50 for place in CTRL]
    assert (left < 0.1).all(), left
    bent = peaks.copy()
    bent[:10] = [peaks_of(jpeg(triggered(x, 50), 75, 2), 32) for x in pictures[:10]]
    assert not flagged(bent).any()


def test_the_step_drops_the_poisoned_images_of_a_folder(caplog):
    """Images of two sizes, a few grey or too small; 12 of 612 bear the trigger; those that are gone are not looked at."""
    images = [*tiles(64)[:400], *tiles(32)[:200]]
    for i in range(12):
        images[5 * i] = triggered(images[5 * i], 50)
    images += [x[..., :1] for x in images[:6]] + [x[:31] for x in images[:6]]
    c, kept = pictured(images), np.ones(612, bool)
    dropped = Poison(Poison.Options()).run(c, kept)
    found = {d.item for d in dropped}
    assert len(found & set(range(0, 60, 5))) == 12
    assert len(found) <= 13
    reason = "shares what stands out in too many images: Cb (15, 15)+, Cb (31, 31)+, Cr (15, 15)+, Cr (31, 31)+"
    assert dropped[0].reason == reason
    assert all(d.score > 3 for d in dropped if d.item in range(0, 60, 5))
    kept[:60] = False
    assert Poison(Poison.Options()).run(c, kept) == []


def test_a_folder_without_colours_is_refused():
    with pytest.raises(RequestError, match="images in colour of 32 x 32 cells or more"):
        Poison(Poison.Options()).run(pictured([np.zeros((64, 64, 1), np.uint8)]), np.ones(1, bool))
