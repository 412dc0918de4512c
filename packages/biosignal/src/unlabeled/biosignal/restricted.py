"""A pickle of NumPy arrays, read without ever running what it names."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unlabeled.core.contracts import BadInput


def _reconstruct(kind: type, shape: object, code: object) -> NDArray[np.int8]:
    """An empty array, which the pickle then fills; NumPy's own function of that name gives the same."""
    return np.ndarray(0, np.int8)


def _encode(text: str, codec: str) -> bytes:
    """How Python 2 wrote the bytes of an array."""
    if codec != "latin1":
        raise pickle.UnpicklingError(f"codec {codec}")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _encode,
}


class ArrayUnpickler(pickle.Unpickler):
    """Admits what rebuilds an array; any other name raises, before anything is imported or called."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name}") from None


def load_arrays(path: Path) -> Any:
    """The object in an .npy file of dtype object. Raises BadInput where it is more than arrays and plain values."""
    with path.open("rb") as file:
        try:
            np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
            np.lib.format.read_array_header_1_0(file)  # type: ignore[no-untyped-call]
            return ArrayUnpickler(file).load().item()
        except (pickle.UnpicklingError, ValueError, EOFError, AttributeError, TypeError) as error:
            raise BadInput(f"{path.name}: not a pickle of arrays alone ({error}); it was not loaded") from None
