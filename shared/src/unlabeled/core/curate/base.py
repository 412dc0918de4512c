"""Step and Decision: what a step of `unlabeled curate` is. One file = one step = one class, as a method is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from unlabeled.core.curate.collection import Collection


@dataclass(frozen=True)
class Decision:
    """One item that a step drops.

    item    its position in the collection
    reason  one short sentence, for the manifest
    like    position of the item that is kept in its place, where there is one
    score   how sure, or how alike; what it is stands in the step's docstring
    """

    item: int
    reason: str
    like: int | None = None
    score: float | None = None


class Step(Protocol):
    """What a step offers.

    Its class has `Options`, a strict pydantic model of which every field has a description, and is made of one. A step reads
    and decides; it changes neither the collection nor `kept`, and the same collection gives the same decisions.
    """

    Options: ClassVar[type[BaseModel]]

    def run(self, collection: Collection, kept: NDArray[np.bool_]) -> list[Decision]:
        """What is dropped of the items that are still `kept` (N,); each at most once, and none that is gone already.

        Raises RequestError where the collection has not what the step needs (embeddings, pictures).
        """
        ...
