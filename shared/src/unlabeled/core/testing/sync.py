"""Does a step wait for the device? Asked on the CPU, by looking at the operations it runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

# reading a value on the host, which every `.item()` and `bool()` ends in, and sizes that depend on values
WAITING = {"_local_scalar_dense", "equal", "allclose", "nonzero", "masked_select", "bincount"}
WAITING |= {"_unique2", "unique_dim", "unique_consecutive"}
INDEXING = {"index", "index_put", "index_put_", "_unsafe_index", "_unsafe_index_put"}


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, an operation that would make the host wait for a GPU raises AssertionError.

    What is no operation on the CPU is not seen: `.tolist()`, `.numpy()`, a copy to the host.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        assert name not in WAITING, f"{name} waits for the device"
        if name in INDEXING:
            by_mask = any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in args[1])
            assert not by_mask, "an index by a mask waits for the device"
        if name == "repeat_interleave":
            assert kwargs.get("output_size") is not None, "repeat_interleave without output_size waits for the device"
        return func(*args, **kwargs)
