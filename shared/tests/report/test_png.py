import base64
import io

import numpy as np
from PIL import Image

from unlabeled.core.report.png import data_uri, png, shades


def opened(content):
    with Image.open(io.BytesIO(content)) as image:
        return np.array(image)


def test_another_reader_sees_the_same_pixels():
    rng = np.random.default_rng(0)
    for shape in ((5, 7), (5, 7, 3), (1, 1)):
        pixels = rng.integers(0, 256, shape, np.uint8)
        np.testing.assert_array_equal(opened(png(pixels)), pixels)
    head, _, body = data_uri(pixels).partition(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(opened(base64.b64decode(body)), pixels)


def test_shades():
    # low is 0, high is 255, beyond is cut, the middle is 127.5 and rounds to the even 128, NaN is 128
    x = np.array([[[-1.0, 1.0, 0.0], [np.nan, -5.0, 5.0]]])
    np.testing.assert_array_equal(shades(x, -1, 1), [[0, 255, 128], [128, 0, 255]])
    assert shades(np.zeros((3, 2, 4)), 0, 0).shape == (2, 4, 3)
    np.testing.assert_array_equal(shades(np.full((2, 2, 2), 3.0), 3.0, 3.0), np.zeros((2, 2)))
