"""Images by formula: Takashima et al. 2023, Visual Atoms: Pre-training Vision Transformers with Sinusoidal Waves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from unlabeled.core.files import folder_atomic, free
from unlabeled.core.streams import rng

# pixels of the authors' images, which all lengths below are for
PAPER = 512


@dataclass(frozen=True)
class Atom:
    """A class: what its images share. Lengths in pixels of an image of 512 x 512.

    waves       n1, n2: how often the two sines go up and down on one turn (paper: 0 to 20, different)
    amplitude   of each sine, and of each orbit beyond the last
    vertices    of an orbit (paper: q, 200 to 1000)
    orbits      lines (paper: K, 1 to 200)
    radius      of the first orbit, before the axes stretch it (0 to 50)
    axes        stretch of the first orbit along x and y (1 to 2)
    gap         between orbits (2 to 6, and line width 0 to 0.01)
    noise       of each vertex, as a share of the gap
    """

    waves: tuple[int, int]
    amplitude: float = 0.5
    vertices: int = 200
    orbits: int = 1
    radius: float = 0.0
    axes: tuple[float, float] = (1.0, 1.0)
    gap: float = 2.0
    noise: float = 0.0


def atom(seed: int, number: int) -> Atom:
    """Class `number` of the data set of this seed, with the paper's ranges (its code, `render_VisualAtom.py`)."""
    draw = rng(seed, "visual atom", number)
    n1, n2 = (int(n) for n in draw.choice(21, 2, replace=False))
    return Atom(
        waves=(n1, n2),
        vertices=int(draw.integers(200, 1001)),
        orbits=int(draw.integers(1, 201)),
        radius=float(draw.integers(0, 51)),
        axes=(float(draw.uniform(1, 2)), float(draw.uniform(1, 2))),
        gap=float(draw.uniform(2, 6) + draw.uniform(0, 0.01)),
        noise=0.25,
    )


def orbits(made: Atom, draw: np.random.Generator) -> NDArray[np.float64]:
    """(orbits, vertices, 2) x and y around the centre.

    Orbit k = 1, 2, ... at the angle t has its vertex at radius * (axes_x cos t, axes_y sin t) + d_k(t) (cos t, sin t), with
    d_k(t) = d_{k-1}(t) + gap * (1 + noise * e) + amplitude * (sin(n1 t) + sin(n2 t)) and e standard normal: waves grow
    from orbit to orbit, and so does their noise.
    """
    t = 2 * np.pi * np.arange(made.vertices) / made.vertices
    turn = np.stack([np.cos(t), np.sin(t)], -1)
    wave = made.amplitude * (np.sin(made.waves[0] * t) + np.sin(made.waves[1] * t))
    step = made.gap * (1 + made.noise * draw.standard_normal((made.orbits, made.vertices))) + wave
    return np.asarray(made.radius * turn * np.array(made.axes) + np.cumsum(step, 0)[..., None] * turn)


def picture(made: Atom, size: int, draw: np.random.Generator) -> NDArray[np.uint8]:
    """(size, size, 3) uint8: orbits as lines of one pixel on black, each in a grey by lot, the centre anywhere in the image."""
    centre = draw.uniform(0, size, 2)
    greys = draw.integers(0, 256, made.orbits)
    lines = orbits(made, draw) * (size / PAPER) + centre
    image = Image.new("L", (size, size))
    pen = ImageDraw.Draw(image)
    for line, grey in zip(lines, greys.tolist(), strict=True):
        pen.line([*line.ravel().tolist(), *line[0].tolist()], fill=grey)
    return np.repeat(np.asarray(image)[..., None], 3, -1)


def visual_atoms(classes: int, per_class: int, size: int, seed: int) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Class and image (size, size, 3) of every image, class by class: data that needs no data.

    An image depends on the seed, its class and its number in the class alone, never on how many are made.

    Deviations: the noise of a vertex is one normal draw along the radius (their code: Perlin noise read at random places,
    which is white, and apart for x and y); lengths shrink with the image, so that a small one shows the same; waves of a
    class always differ (theirs may both be 0).
    """
    for number in range(classes):
        made = atom(seed, number)
        for i in range(per_class):
            yield number, picture(made, size, rng(seed, "visual atom", number, "image", i))


def write(to: Path, classes: int, per_class: int, size: int, seed: int, update: Callable[[int, int], None]) -> int:
    """PNG files in `to`, a folder for each class, and labels.csv (key, label). Returns how many images there are.

    update(done, total) is called after each. Raises RequestError where `to` is in use or cannot be written.
    """
    free(to)
    lines, total = ["key,label"], classes * per_class
    with folder_atomic(to) as temp:
        for done, (number, image) in enumerate(visual_atoms(classes, per_class, size, seed)):
            label = f"atom_{number:04d}"
            key = f"{label}/{done % per_class:05d}.png"
            (temp / label).mkdir(exist_ok=True)
            Image.fromarray(image).save(temp / key)
            lines.append(f"{key},{label}")
            update(done + 1, total)
        (temp / "labels.csv").write_text("\n".join(lines) + "\n")
    return total
