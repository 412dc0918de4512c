"""How many weights an encoder could do without: pruned by size, all at once, and what is left of its features."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from unlabeled.core.contracts.batch import BatchInput
from unlabeled.core.measures.rank import rankme
from unlabeled.core.nn.base import Encoder

SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LIMIT = 0.99

Inputs = Mapping[str, BatchInput]


@dataclass(frozen=True)
class Point:
    """share of the weights that is 0, zeros their number; of the pooled features beside the unpruned ones the mean cosine over
    items, the relative error |f' - f| / |f| over all, and RankMe."""

    share: float
    zeros: int
    cosine: float
    error: float
    rank: float


def curve(
    encoder: Encoder, inputs: Sequence[Inputs], shares: Sequence[float] = SHARES, limit: float = LIMIT
) -> dict[str, Any]:
    """Features of the encoder, on batches of inputs, when the smallest weights of all its matrices together become 0.

    Jaiswal et al. 2023 (essential sparsity): pruned once, globally, by magnitude, with no training after. They look for the
    sparsity at which scores of fine-tuned models fall; here nothing is trained, and the knee is the largest share up to which
    the mean cosine stays at `limit` or above. Matrices are the weights of linear and convolution layers; biases, norms,
    embeddings, positions and class tokens are not pruned. The encoder itself is not changed.
    """
    pruned = copy.deepcopy(encoder).eval()
    weights = matrices(pruned)
    with torch.inference_mode():
        whole = torch.cat([w.detach().flatten() for w in weights])
        order = whole.abs().argsort(stable=True)
        before = _features(pruned, inputs)
        points = []
        for share in shares:
            zeros = round(share * len(whole))
            left = whole.clone()
            left[order[:zeros]] = 0
            _fill(weights, left)
            points.append(_point(share, zeros, before, _features(pruned, inputs)))
    kept = [p.share for p in takewhile(lambda p: p.cosine >= limit, sorted(points, key=lambda p: p.share))]
    return {
        "weights": len(whole),
        "items": len(before),
        "limit": limit,
        "knee": kept[-1] if kept else None,
        "curve": [asdict(p) for p in points],
    }


def matrices(encoder: nn.Module) -> list[Tensor]:
    """Weights of its linear and convolution layers, each once."""
    found = {id(m.weight): m.weight for m in encoder.modules() if isinstance(m, nn.Linear | _ConvNd)}
    return list(found.values())


def _fill(weights: Sequence[Tensor], values: Tensor) -> None:
    at = 0
    for weight in weights:
        weight.data.copy_(values[at : at + weight.numel()].view_as(weight))
        at += weight.numel()


def _features(encoder: Encoder, inputs: Sequence[Inputs]) -> Tensor:
    return torch.cat([encoder(batch).pooled.double() for batch in inputs])


def _point(share: float, zeros: int, before: Tensor, after: Tensor) -> Point:
    """Features that are 0 have the cosine 0."""
    error = (after - before).norm() / before.norm().clamp_min(torch.finfo(before.dtype).tiny)
    cosine = F.cosine_similarity(before, after, dim=1).mean()
    return Point(share, zeros, float(cosine), float(error), float(rankme(after)))
