"""k-means that learns while features come in (Sculley 2010, Web-scale k-means; van den Oord et al. 2017, VQ-VAE, appendix A)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from unlabeled.core import ranks
from unlabeled.core.streams import key, normal, uniform
from unlabeled.core.targets.codebooks.drawing import drawn, seeds
from unlabeled.core.targets.codebooks.nearest import nearest


class KMeans(nn.Module):
    """K entries that follow the means of the features nearest to them. All of its state is buffers.

    `start` seeds it from a first batch, `update` moves it with this and each further one: the first time an entry has
    features it becomes their mean. Both are called after the optimiser's step, see the features of all ranks, and change
    nothing where no feature counts. Until `start` the entries are random.

    decay  share of an entry's past that stays at an update in which it has as many features as on average
    dead   an entry with less than this share of the mean use starts anew from a feature that lies far from all
    """

    entries: Tensor
    use: Tensor

    def __init__(self, width: int, size: int, decay: float = 0.99, dead: float = 0.01) -> None:
        super().__init__()
        self.decay, self.dead = decay, dead
        self.register_buffer("entries", normal(key(0, "codebook"), torch.arange(size), (width,)))
        # features of a step at each entry, a moving mean
        self.register_buffer("use", torch.zeros(size))

    @property
    def size(self) -> int:
        return len(self.entries)

    def codes(self, x: Tensor) -> Tensor:
        """Features (..., D) -> (...) int64 in [0, size). Changes no state."""
        return nearest(x, self.entries)

    @torch.no_grad()
    def start(self, x: Tensor, weight: Tensor, stream: int) -> None:
        """Put the entries on rows of a first batch x (..., D) of weight (...) by k-means++, with draws keyed by `stream`."""
        rows, there = seeds(*self._rows(x, weight), self.size, stream)
        self.entries.copy_(torch.where(there[:, None], rows, self.entries))

    @torch.no_grad()
    def update(self, x: Tensor, weight: Tensor, stream: int) -> None:
        """Move towards x (..., D) of weight (...), 0 for what does not count, which may hold anything.

        Then dead entries start anew from rows of x, drawn by their squared distance to the entry that they had.
        """
        x, weight = self._rows(x, weight)
        ids = self.codes(x)
        mass = weight * (x - self.entries[ids]).square().sum(1)
        self._move(x, ids, weight)
        rows, any_far = drawn(x, mass, uniform(stream, torch.arange(self.size, device=x.device), ()))
        mean = self.use.mean()
        dead = (self.use < self.dead * mean) & any_far
        self.entries.copy_(torch.where(dead[:, None], rows, self.entries))
        self.use.copy_(torch.where(dead, mean, self.use))

    def _rows(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) and (N,), in the type of the entries; rows of weight 0 are 0."""
        w = weight.flatten().to(self.entries.dtype)
        return torch.where(w[:, None] > 0, x.flatten(0, -2).to(w.dtype), 0), w

    def _move(self, x: Tensor, ids: Tensor, weight: Tensor) -> None:
        both = torch.cat([x, torch.ones_like(x[:, :1])], 1) * weight[:, None]
        sums = ranks.total(x.new_zeros(self.size, both.shape[1]).index_add(0, ids, both))
        counts = sums[:, -1]
        means = sums[:, :-1] / counts.clamp_min(torch.finfo(counts.dtype).tiny)[:, None]
        self.entries.copy_(self._moved(means, counts))
        self.use.copy_(torch.where(counts.sum() > 0, self.use.lerp(counts, 1 - self.decay), self.use))

    def _moved(self, means: Tensor, counts: Tensor) -> Tensor:
        """The entries, moved towards the means of `counts` features: by a share that falls with an entry's past use."""
        new = (1 - self.decay) * counts
        share = new / (self.decay * self.use + new).clamp_min(torch.finfo(new.dtype).tiny)
        return self.entries + share[:, None] * (means - self.entries)
