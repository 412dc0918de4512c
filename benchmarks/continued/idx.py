"""The idx format, in which Fashion-MNIST comes: a header of type and sizes, then the values, all big-endian."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts.errors import RequestError

BYTES = 8  # the code of unsigned bytes, the third byte of the file


def read_idx(path: Path) -> NDArray[np.uint8]:
    """The array in a gzipped idx file of unsigned bytes: 0, 0, 8, the number of axes, a uint32 for each size, the values.

    Raises RequestError where there is no such file, or something else in it.
    """
    try:
        raw = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise RequestError(
            f"{path} is not there; --fashion names the folder of the four files of Fashion-MNIST "
            "(benchmarks/continued/README.md says where they come from)"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise RequestError(f"{path} cannot be read as gzip ({error}); unpack the package again") from None
    axes = raw[3] if raw[:3] == bytes([0, 0, BYTES]) and len(raw) > 3 else 0
    if axes == 0 or len(raw) < 4 + 4 * axes:
        raise RequestError(f"{path} is no idx file of unsigned bytes; name the folder of the four files as they came")
    shape = np.frombuffer(raw, ">u4", axes, 4).astype(np.int64)
    start = 4 + 4 * axes
    if len(raw) - start != shape.prod():
        raise RequestError(
            f"{path} holds {len(raw) - start} values where its header says {shape.prod()}; unpack the package again"
        )
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)
