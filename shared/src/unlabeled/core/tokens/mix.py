"""Groups of items whose patches are mixed into one sequence (Chen et al. 2023, MixedAE, section 3.1). It stands alone for
every method that mixes patches of items, of one modality or of several."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.contracts.batch import Moves
from unlabeled.core.tokens.exchange import shuffled
from unlabeled.core.tokens.masks import Mask


@dataclass(frozen=True)
class Groups(Moves):
    """This rank's G groups of n items each, drawn from the rows of all ranks.

    member (G * n,) their numbers among all ranks' rows, there (G * n,) whether a place of a group is taken
    number (G,) of the groups among those of all ranks
    place  (B,) where each of this rank's rows stands among the members of all ranks' groups
    """

    member: Tensor
    there: Tensor
    number: Tensor
    place: Tensor

    @classmethod
    def of(cls, index: Tensor, weight: Tensor, size: int, stream: int) -> Groups:
        """Groups of `size` rows that follow each other in the order of `shuffled`; the last may be smaller, or empty."""
        order, count = shuffled(index, weight, stream)
        rows, rank, each = len(index), ranks.rank(), -(-len(index) // size)
        slots = torch.arange(ranks.world() * each * size, device=order.device)
        everyone = torch.cat([order, slots[len(order) :]])
        own = slice(rank * each * size, (rank + 1) * each * size)
        return cls(
            member=everyone[own].clamp_max(len(order) - 1),
            there=slots[own] < count,
            number=slots[rank * each : (rank + 1) * each],
            place=everyone.argsort()[rank * rows : (rank + 1) * rows],
        )


def mixed(valid: Tensor, noise: Tensor) -> Mask:
    """Gives every place of a group to one of its n items: a mask for each item, which keeps the places it is given.

    valid (G, n, L) bool, noise (G, L) uniform -> keep (G * n, K) and hide (G * n, (n - 1) K), K = L / n rounded up. The
    places where any item of the group is valid are dealt out in random order, one item after the other, so that the
    shares of two items differ by one place at most. An item may be invalid where it is given a place.
    """
    n, length = valid.shape[1:]
    some = valid.any(1)
    most = -(-length // n)
    order = F.pad(noise.masked_fill(~some, 2.0).argsort(dim=1, stable=True), (0, most * n - length))
    dealt = torch.arange(most * n, device=order.device) < some.sum(1, keepdim=True)
    own, there = (x.reshape(-1, most, n).mT for x in (order, dealt))

    def others(x: Tensor) -> Tensor:
        return torch.cat([x.roll(-shift, 1) for shift in range(1, n)], 2).flatten(0, 1)

    return Mask(own.flatten(0, 1), there.flatten(0, 1), others(own), others(there))
