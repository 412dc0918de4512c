"""Learning rates by layer."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from torch import nn

from unlabeled.core.contracts import RequestError
from unlabeled.core.downstream.model import Model
from unlabeled.core.nn.base import Encoder
from unlabeled.core.training.optim import parameter_groups

_LAYER = re.compile(r"(?:^|\.)(?:blocks|layers|convs|norms)\.(\d+)\.")
_LAST = re.compile(r"(?:^|\.)norm\.")


def layer_groups(encoder: Encoder) -> list[list[nn.Parameter]]:
    """Parameters from the input to the output: embeddings, layer 0 ... layer depth - 1, what follows the last layer.

    Layers are the numbered members of `blocks`, `layers`, `convs` and `norms`; depth + 2 lists, some of them empty. The
    decoder of a U-Net follows the last layer, whole.
    """
    found: dict[int, list[nn.Parameter]] = defaultdict(list)
    after: list[nn.Parameter] = []
    for name, p in encoder.named_parameters():
        number = _LAYER.search(name)
        if name.startswith("decoder.") or (number is None and _LAST.search(name)):
            after.append(p)
        elif number:
            found[1 + int(number[1])].append(p)
        else:
            found[0].append(p)
    return [*(found[i] for i in range(max([0, *found]) + 1)), after]


def optimiser_groups(
    model: Model, lr: float, head_lr: float | None = None, layer_decay: float = 1.0, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Groups of an optimiser: layer i of the encoder learns at lr * layer_decay^(depth - i), the head at `head_lr`.

    The embeddings count as layer -1, a final norm as layer `depth`. Clark et al. 2020 (ELECTRA), appendix A; Bao et al.
    2022 (BEiT), appendix H. Raises RequestError where the encoder has no numbered layers.
    """
    layers = layer_groups(model.encoder)
    if layer_decay < 1 and len(layers) < 3:
        raise RequestError(f"a {type(model.encoder).__name__} has no numbered layers; set layer_decay=1")
    rate = {id(p): lr * layer_decay ** (len(layers) - 1 - i) for i, layer in enumerate(layers) for p in layer}
    groups = []
    for group in parameter_groups(model, weight_decay):
        by_rate: dict[float, list[nn.Parameter]] = defaultdict(list)
        for p in group["params"]:
            by_rate[rate.get(id(p), lr if head_lr is None else head_lr)].append(p)
        groups += [{**group, "params": params, "lr": value} for value, params in by_rate.items()]
    return groups
