"""Visual atoms."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from unlabeled.core.cli.main import app
from unlabeled.core.cli.shell import run
from unlabeled.core.curate.visual_atoms import Atom, atom, orbits, picture, visual_atoms
from unlabeled.core.streams import rng

PLAIN = Atom(waves=(3, 7), amplitude=0.5, vertices=400, orbits=6, radius=20, gap=3)


def radii(made, draw=0):
    """(orbits, vertices) distance of each vertex from the centre."""
    return np.linalg.norm(orbits(made, rng(draw)), axis=-1)


def test_without_amplitude_orbits_are_circles():
    """Orbit k has the radius 20 + 3 k everywhere."""
    np.testing.assert_allclose(
        radii(replace(PLAIN, amplitude=0)), 20 + 3 * np.arange(1, 7)[:, None] * np.ones(400), rtol=1e-12
    )


def test_axes_stretch_the_first_orbit_alone():
    """With radius 20, axes (2, 1) and no gap the orbit is the ellipse (x / 40)^2 + (y / 20)^2 = 1."""
    x, y = orbits(replace(PLAIN, amplitude=0, gap=0, axes=(2.0, 1.0)), rng(0))[-1].T
    np.testing.assert_allclose((x / 40) ** 2 + (y / 20) ** 2, 1, rtol=1e-12)


@pytest.mark.parametrize("waves", [1, 4, 20])
def test_one_wave_has_as_many_maxima(waves):
    """sin(n t) + sin(0): n maxima of the radius on a turn, and in its spectrum n alone, of amplitude 0.5 k in orbit k."""
    r = radii(replace(PLAIN, waves=(waves, 0)))
    assert ((r > np.roll(r, 1, 1)) & (r > np.roll(r, -1, 1))).sum(1).tolist() == [waves] * 6
    spectrum = 2 * np.abs(np.fft.rfft(r)) / 400
    np.testing.assert_allclose(spectrum[:, waves], 0.5 * np.arange(1, 7), rtol=1e-10)
    spectrum[:, [0, waves]] = 0
    assert spectrum.max() < 1e-10


def test_two_waves_add_up():
    spectrum = 2 * np.abs(np.fft.rfft(radii(PLAIN))) / 400
    assert sorted(spectrum[-1, 1:].argsort()[-2:] + 1) == [3, 7]
    np.testing.assert_allclose(spectrum[:, 3], spectrum[:, 7], rtol=1e-10)


def test_noise_grows_from_orbit_to_orbit():
    """A step is gap * (1 + 0.25 e): after k orbits a standard deviation of 3 * 0.25 * sqrt(k), here of 20,000 vertices."""
    made = replace(PLAIN, amplitude=0, noise=0.25, vertices=20_000)
    np.testing.assert_allclose(radii(made).std(1), 0.75 * np.sqrt(np.arange(1, 7)), rtol=0.02)


def test_classes_keep_to_the_papers_ranges_and_differ():
    made = [atom(0, i) for i in range(300)]
    assert len({(a.waves, a.vertices, a.orbits) for a in made}) == 300
    for low, high, values in (
        (0, 20, [n for a in made for n in a.waves]),
        (200, 1000, [a.vertices for a in made]),
        (1, 200, [a.orbits for a in made]),
        (0, 50, [a.radius for a in made]),
        (1, 2, [x for a in made for x in a.axes]),
        (2, 6.01, [a.gap for a in made]),
    ):
        assert low <= min(values) < low + 0.1 * (high - low)
        assert high - 0.1 * (high - low) < max(values) <= high
    assert all(a.waves[0] != a.waves[1] for a in made)
    assert atom(1, 0) != atom(0, 0)


def test_images_of_a_class_share_its_waves():
    """Draws differ from image to image; in each the strongest two frequencies of the outer orbit are the class's."""
    made = replace(PLAIN, waves=(5, 11), noise=0.25, orbits=60)
    first, second = radii(made, 1), radii(made, 2)
    assert np.abs(first - second).max() > 1
    for r in (first, second):
        assert sorted(np.abs(np.fft.rfft(r[-1]))[1:].argsort()[-2:] + 1) == [5, 11]


def test_the_same_seed_gives_the_same_bytes_however_many_are_made():
    few = list(visual_atoms(2, 2, 48, 7))
    many = list(visual_atoms(3, 4, 48, 7))
    assert [c for c, _ in many] == [0] * 4 + [1] * 4 + [2] * 4
    assert all(x.shape == (48, 48, 3) and x.dtype == np.uint8 for _, x in many)
    for a, b in zip(few, (many[0], many[1], many[4], many[5]), strict=True):
        assert a[1].tobytes() == b[1].tobytes()
    assert len({x.tobytes() for _, x in many}) == 12
    assert next(visual_atoms(1, 1, 48, 8))[1].tobytes() != few[0][1].tobytes()


def test_a_small_image_shows_what_a_large_one_does():
    """One circle of radius 60 of 512, centre by lot: its bounding box is 120 / 512 of the image, whatever its size."""
    made = Atom(waves=(0, 1), amplitude=0, radius=56, gap=4)
    for size in (128, 512):
        for i in range(20):
            image = picture(made, size, rng(i))
            there = np.argwhere(image[..., 0])
            if len(there) and there.min() > 0 and there.max() < size - 1:
                assert np.ptp(there, axis=0) == pytest.approx([120 * size / 512] * 2, abs=2)
                break
        else:
            pytest.fail("no circle lies whole in the image")


def test_classes_can_be_told_apart():
    """10 classes, 20 images each of 64 x 64 cells, of two seeds: nearest mean of amplitude spectra, which do not see the place.

    Images are halved first. Means of 10 images, tested on the 10 others: 0.48 of the 200 are right, and chance is 0.1 with a
    standard deviation of 0.02.
    """
    right = []
    for seed in (0, 1):
        images = np.stack([x[..., 0] for _, x in visual_atoms(10, 20, 64, seed)])
        halved = images.reshape(10, 20, 32, 2, 32, 2).mean((3, 5))
        spectra = np.log1p(np.abs(np.fft.rfft2(halved))).reshape(10, 20, -1)
        means = spectra[:, :10].mean(1)
        nearest = np.square(spectra[:, 10:, None] - means).sum(-1).argmin(-1)
        right.append(nearest == np.arange(10)[:, None])
    assert np.mean(right) > 0.4


def test_the_command_writes_folders_and_labels(tmp_path, capsys):
    to = tmp_path / "atoms"
    assert run(app, ["atoms", "-o", str(to), "--classes", "3", "--per-class", "2", "--size", "32"]) == 0
    lines = (to / "labels.csv").read_text().splitlines()
    assert lines[0] == "key,label"
    assert lines[1:3] == ["atom_0000/00000.png,atom_0000", "atom_0000/00001.png,atom_0000"]
    assert len(lines) == 7
    for line, (_, image) in zip(lines[1:], visual_atoms(3, 2, 32, 0), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(to / line.split(",")[0])), image)
    assert "6 images in 3 classes" in capsys.readouterr().out
    assert run(app, ["atoms", "-o", str(to)]) == 2
    assert "exists; choose another folder" in capsys.readouterr().err
