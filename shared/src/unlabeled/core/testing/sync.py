"""Does a step wait for the device? Asked on the CPU, by looking at the operations it runs."""

from __future__ import annotations

from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

# reading a value on the host, and sizes that depend on values; every `.item()`, `bool()` and boolean index ends in one
WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}


class NoWaiting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Within it, an operation that would make the host wait for a GPU raises AssertionError."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        assert name not in WAITING, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))
