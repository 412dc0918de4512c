"""`map` in threads, for work that lets go of the interpreter's lock: Pillow, hashlib, numpy on large arrays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

WORKERS = 2


def ahead(function: Callable[[T], R], items: Iterable[T], depth: int = 4 * WORKERS) -> Iterator[R]:
    """`function` of every item, in their order, by WORKERS threads that are at most `depth` items ahead of the reader."""
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) >= depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
