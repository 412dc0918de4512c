"""Real pictures that libraries carry, cut into tiles, and the copies that are planted among them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import skimage
from PIL import Image
from scipy.ndimage import uniform_filter
from sklearn.datasets import load_sample_images

NAMES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "color.png",
    "grass.png",
    "gravel.png",
    "horse.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "logo.png",
    "microaneurysms.png",
    "moon.png",
    "motorcycle_left.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
    "text.png",
)
SIDE = 128


@pytest.fixture(autouse=True)
def key(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path_factory.mktemp("key") / "key"))


@pytest.fixture(scope="session")
def photos() -> dict[str, np.ndarray]:
    """name -> uint8 (H, W, 3): 21 pictures of scikit-image's wheel and 2 of scikit-learn's."""
    folder = Path(skimage.__file__).parent / "data"
    found = {name: np.asarray(Image.open(folder / name).convert("RGB")) for name in NAMES}
    return found | dict(zip(("china", "flower"), load_sample_images().images, strict=True))


@pytest.fixture(scope="session")
def tiles(photos: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Distinct tiles of 128 x 128, those left out that show nothing: detail of less than one grey level, as bare sky."""
    found = []
    for image in photos.values():
        for y in range(0, image.shape[0] - SIDE + 1, SIDE):
            for x in range(0, image.shape[1] - SIDE + 1, SIDE):
                tile = image[y : y + SIDE, x : x + SIDE]
                grey = np.asarray(Image.fromarray(tile).convert("L").resize((64, 64), Image.Resampling.BOX), np.float64)
                if (uniform_filter(grey, 3) - uniform_filter(grey, 9)).std() >= 1:
                    found.append(tile)
    return found


def coded(picture: np.ndarray, form: str, **options) -> np.ndarray:
    """What a file of this format gives back."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, form, **options)
    return np.asarray(Image.open(file).convert("RGB"))


def half(picture: np.ndarray) -> np.ndarray:
    image = Image.fromarray(picture)
    return np.asarray(image.resize((image.width // 2, image.height // 2), Image.Resampling.LANCZOS))


def cropped(picture: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """A twentieth of each side cut away, anywhere."""
    h, w = (round(0.95 * n) for n in picture.shape[:2])
    y, x = draw.integers(0, picture.shape[0] - h + 1), draw.integers(0, picture.shape[1] - w + 1)
    return picture[y : y + h, x : x + w]


COPIES = {
    "jpeg": lambda p, draw: coded(p, "JPEG", quality=50),
    "half": lambda p, draw: half(p),
    "crop": cropped,
    "webp": lambda p, draw: coded(p, "WEBP", quality=80),
    "gif": lambda p, draw: coded(p, "GIF"),
    "exact": lambda p, draw: p.copy(),
}
