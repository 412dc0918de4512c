"""What everybody agrees on: pure data, no torch modules.

Everything imported here is free of torch, so that listing, help and `inspect` stay fast; the batch classes, which hold
tensors, live in `unlabeled.core.contracts.batch`.
"""

from unlabeled.core.contracts.domain import Domain, Head, MethodCard, load
from unlabeled.core.contracts.errors import (
    Absent,
    BadInput,
    Incompatible,
    Leakage,
    RequestError,
    RunFailed,
    TooManyBad,
    UnlabeledError,
)
from unlabeled.core.contracts.sample import Input, Sample
from unlabeled.core.contracts.spec import Constants, Conversion, InputSpec, Normaliser

__all__ = [
    "Absent",
    "BadInput",
    "Constants",
    "Conversion",
    "Domain",
    "Head",
    "Incompatible",
    "Input",
    "InputSpec",
    "Leakage",
    "MethodCard",
    "Normaliser",
    "RequestError",
    "RunFailed",
    "Sample",
    "TooManyBad",
    "UnlabeledError",
    "load",
]
