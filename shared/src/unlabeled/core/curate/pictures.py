"""Folders of pictures: found, decoded once, and brought to thumbnails. What cannot be decoded is named with its reason."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from unlabeled.core.contracts import BadInput, RequestError
from unlabeled.core.curate.ahead import ahead
from unlabeled.core.curate.collection import CELLS, COLOUR, Collection, Picture
from unlabeled.core.data.groups import hashed, project_key
from unlabeled.core.data.manifest import Progress
from unlabeled.core.files import without_folders

# decoders that run no programs and follow no references; a file of another format is no picture here
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
SUFFIXES = (".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
LONGER = 1024  # cells along the longer side of what `Collection.picture` gives


class Facts(NamedTuple):
    """What is kept of one item."""

    cells: int
    sha256: bytes
    grey: NDArray[np.uint8]
    colour: NDArray[np.uint8]


def read_folder(root: Path, progress: Progress | None = None) -> Collection:
    """Every picture below `root`, decoded once, in the order of the names. Changes nothing.

    JPEG, PNG, WebP, BMP, TIFF, GIF and PPM, by what is in the file; of several frames the first; turned as EXIF says; on
    white where transparent; of more than 8 bits the upper ones that are in use, of floats their own range. A file without a
    suffix is tried; one with another suffix, or whose name begins with a dot, is `ignored`.

    Memory: about 0.5 kB a picture, and 7 kB of a temporary file that is mapped.
    Raises RequestError (no folder, nothing readable).
    """
    if not root.is_dir():
        raise RequestError(f"{root}: no such folder" if not root.exists() else f"{root} is a file; name its folder")
    Image.init()  # before the threads: it is not made for several at once
    names, failed, ignored = find(root)
    if not names and not failed:
        raise RequestError(f"{root}: no picture in it ({', '.join(SUFFIXES)})")
    grey, colour = shelf(len(names), CELLS[2]), shelf(len(names), COLOUR)
    cells, digests = np.zeros(len(names), np.int64), np.zeros((len(names), 32), np.uint8)

    def look(name: str) -> Facts | str:
        try:
            return facts(decode(root / name, name))
        except BadInput as error:
            return str(error)

    keys: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of odd tags and of sizes below Pillow's limit
        for done, (name, found) in enumerate(zip(names, ahead(look, names), strict=True)):
            if isinstance(found, str):
                failed[name] = found
            else:
                at = len(keys)
                keys.append(name)
                cells[at], grey[at], colour[at] = found.cells, found.grey, found.colour
                digests[at] = np.frombuffer(found.sha256, np.uint8)
            if progress:
                progress(done + 1, len(names))
    n = len(keys)
    if not n:
        raise RequestError(f"{root}: no picture can be read; the first of {len(failed)}: {next(iter(failed.values()))}")
    secret = project_key()
    folders = [name.rpartition("/")[0] for name in keys]
    known = {folder: hashed(folder, secret) for folder in set(folders)}

    def read(i: int) -> Picture:
        return reduced(decode(root / keys[i], keys[i]))

    groups = [known[folder] for folder in folders]
    return Collection(keys, groups, cells[:n], digests[:n], grey[:n], colour[:n], read, failed, ignored)


def from_arrays(pictures: Sequence[Picture], keys: Sequence[str], groups: Sequence[str] | None = None) -> Collection:
    """Pictures in memory, uint8 (H, W), (H, W, 1) or (H, W, 3), as a folder of them would be."""
    images = [Image.fromarray(np.squeeze(p, 2) if p.ndim == 3 and p.shape[2] == 1 else p) for p in pictures]
    cells, digests, grey, colour = zip(*(facts(image) for image in images), strict=True)
    return Collection(
        list(keys),
        [""] * len(keys) if groups is None else list(groups),
        np.array(cells),
        np.stack([np.frombuffer(d, np.uint8) for d in digests]),
        np.stack(grey),
        np.stack(colour),
        lambda i: reduced(images[i]),
    )


def find(root: Path) -> tuple[list[str], dict[str, str], list[str]]:
    """Names of files that look like pictures, sorted; names with the reason why they are not read; names of other files."""
    names: list[str] = []
    failed: dict[str, str] = {}
    ignored: list[str] = []
    inside = root.resolve()

    def closed(error: OSError) -> None:
        name = Path(error.filename).relative_to(root).as_posix()
        failed[name] = f"{name} cannot be listed: {error.strerror}"

    for folder, below, files in os.walk(root, onerror=closed):
        here = Path(folder)
        below[:] = [d for d in below if not d.startswith(".")]
        for name in [*(d for d in below if (here / d).is_symlink()), *files]:
            path = here / name
            key = path.relative_to(root).as_posix()
            if name.startswith(".") or (name not in below and path.suffix.lower() not in ("", *SUFFIXES)):
                ignored.append(shown(key))
            elif name in below:
                failed[key] = f"{key} is a link to a folder, which is not followed; name that folder itself"
            elif shown(key) != key:
                failed[shown(key)] = f"{shown(key)}: its name is not UTF-8; rename it"
            elif path.is_symlink() and not path.resolve().is_relative_to(inside):
                failed[key] = f"{key} is a link out of the folder"
            elif not path.is_file():
                failed[key] = f"{key} is no file that can be read"
            else:
                names.append(key)
    return sorted(names), dict(sorted(failed.items())), sorted(ignored)


def shown(name: str) -> str:
    """`name` without what is no UTF-8 in it."""
    return os.fsencode(name).decode("utf-8", "replace")


def decode(path: Path, name: str) -> Image.Image:
    """The first frame of a file, upright. Raises BadInput, which names the file as `name`."""
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise BadInput(f"{name} is empty")
            file.seek(0)
            with Image.open(file, formats=FORMATS) as image:
                return ImageOps.exif_transpose(image) or image.copy()
    except BadInput:
        raise
    except UnidentifiedImageError:
        raise BadInput(f"{name} is no picture, or of a format that is not read here") from None
    except Image.DecompressionBombError:
        raise BadInput(f"{name} says that it is larger than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels") from None
    except Exception as error:  # a decoder may raise anything when a file is broken
        said = without_folders(" ".join(str(error).split())) or type(error).__name__
        raise BadInput(f"{name} cannot be decoded: {said}") from None


def facts(image: Image.Image) -> Facts:
    """What is kept of a decoded picture."""
    shades = plain(image)
    deep = image.mode[:1] in ("I", "F")
    content = np.asarray(image if deep else shades.convert("RGB"))
    digest = hashlib.sha256(f"{content.shape} {content.dtype.kind}".encode())
    digest.update(np.ascontiguousarray(content).astype(content.dtype.newbyteorder("<"), copy=False).data)
    colour = shades.convert("RGB")
    # boxes over fewer values than cells repeat them, at other places than in a copy of another size
    way = Image.Resampling.BOX if min(image.size) >= 64 else Image.Resampling.BICUBIC
    return Facts(
        image.width * image.height,
        digest.digest(),
        np.asarray(shades.convert("L").resize((64, 64), way)),
        np.asarray(colour.resize((32, 32), Image.Resampling.BOX)),
    )


def reduced(image: Image.Image) -> Picture:
    """uint8 (H, W, 1 or 3), the longer side at most LONGER."""
    shades = plain(image)
    if max(shades.size) > LONGER:
        scale = LONGER / max(shades.size)
        size = tuple(max(1, round(n * scale)) for n in shades.size)
        shades = shades.resize((size[0], size[1]), Image.Resampling.BOX)
    values = np.asarray(shades)
    return values[..., None] if values.ndim == 2 else values


def plain(image: Image.Image) -> Image.Image:
    """Mode L or RGB, on white where transparent; deeper values by the power of two that holds the largest."""
    if image.mode[:1] == "F":
        values = np.nan_to_num(np.asarray(image), posinf=0.0, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        return Image.fromarray(((values - low) * (255.0 / max(high - low, 1e-30))).astype(np.uint8))
    if image.mode[:1] == "I":
        values = np.maximum(np.asarray(image).astype(np.int64), 0)
        bits = next(b for b in (8, 10, 12, 14, 16, 24, 32) if values.max() < 1 << b)
        return Image.fromarray((values >> (bits - 8)).astype(np.uint8))
    if image.mode in ("1", "L"):
        return image.convert("L")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    return image.convert("RGB")


def shelf(n: int, shape: Sequence[int]) -> NDArray[np.uint8]:
    """(n, *shape) uint8 in a temporary file that vanishes with the process, so that memory does not grow with n."""
    if not n:
        return np.zeros((0, *shape), np.uint8)
    with tempfile.TemporaryFile() as file:  # the map outlives it
        return np.memmap(file, np.uint8, "w+", shape=(n, *shape))
