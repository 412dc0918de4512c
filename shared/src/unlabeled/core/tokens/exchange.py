"""Items that meet: the tokens of all ranks on one grid, and a keyed order of all rows.

For methods that put patches of other items into an item (GMML, SiT, MixedAE). Who meets whom depends on the seed, the
step and the items, and never on the rank. Rows of weight 0 meet nobody.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from unlabeled.core import ranks
from unlabeled.core.streams import uniform
from unlabeled.core.tokens.tokens import Tokens


def everybody(tokens: Tokens) -> Tokens:
    """The tokens of all ranks' rows in rank order, on the largest grid of any rank.

    A rank pads its items to a grid of its own, so with several ranks this waits for the device once, to learn the
    largest; and every rank holds the raw patches of all of them for a moment. Raises ValueError where the tokens lie on
    no grid.
    """
    if not tokens.grid:
        raise ValueError("tokens without a grid have no places that another item has too")
    if ranks.world() == 1:
        return tokens
    sizes = ranks.gather(torch.tensor([tokens.grid], device=tokens.valid.device))
    padded = on_grid(tokens, tuple(sizes.amax(0).tolist()))
    # not every backend gathers booleans
    elements, valid = (ranks.gather(t.to(torch.uint8)).bool() for t in (padded.elements, padded.valid))
    return replace(
        padded, patches=ranks.gather(padded.patches), coords=ranks.gather(padded.coords), elements=elements, valid=valid
    )


def on_grid(tokens: Tokens, grid: tuple[int, ...]) -> Tokens:
    """The same tokens on another grid: cut at the far end of an axis, or followed by invalid ones."""
    if grid == tokens.grid:
        return tokens
    ends = [n for new, old in zip(reversed(grid), reversed(tokens.grid), strict=True) for n in (0, new - old)]

    def moved(x: Tensor) -> Tensor:
        return F.pad(x.reshape(len(x), *tokens.grid, -1), [0, 0, *ends]).flatten(1, len(grid))

    return Tokens(
        patches=moved(tokens.patches),
        elements=moved(tokens.elements),
        coords=moved(tokens.coords),
        valid=moved(tokens.valid[..., None])[..., 0],
        grid=grid,
    )


def rows(tokens: Tokens, at: Tensor, there: Tensor) -> Tokens:
    """The rows `at` (R,) int64, all invalid where `there` (R,) is False."""
    picked = tokens._each(lambda x: x.index_select(0, at))
    return replace(Tokens.of(picked.patches, picked.elements & there[:, None, None], picked.coords), grid=tokens.grid)


def shuffled(index: Tensor, weight: Tensor, stream: int) -> tuple[Tensor, Tensor]:
    """All ranks' rows in an order keyed by `stream` and their item ids: (N,) int64, the rows of weight 0 last.

    And how many rows have a weight, 0-d int64. index (B,) item ids and weight (B,) are those of this rank.
    """
    ids, counts = ranks.gather(index), ranks.gather(weight) > 0
    place = uniform(stream, ids, ()).masked_fill(~counts, 2.0)
    return place.argsort(stable=True), counts.sum()


def donors(index: Tensor, weight: Tensor, stream: int) -> tuple[Tensor, Tensor]:
    """Another item for each of this rank's rows: (B,) its number among all ranks' rows, and (B,) whether there is one.

    The rows that count stand in a ring in the order of `shuffled`, and each is given the next one. So everyone gives
    once and takes once, and none is its own donor. There is none for a row of weight 0, or for one that is alone.
    """
    order, count = shuffled(index, weight, stream)
    turn = torch.arange(len(order), device=order.device)
    following = order[torch.where(turn + 1 < count, turn + 1, 0)]
    donor = torch.empty_like(order).scatter(0, order, following)
    own = slice(ranks.rank() * len(index), (ranks.rank() + 1) * len(index))
    return donor[own], (weight > 0) & (count > 1)
