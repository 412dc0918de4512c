"""torchvision's ResNets: timm names their tensors alike, and the number of blocks tells which one it is."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from unlabeled.core.bundle.foreign.files import drop
from unlabeled.core.contracts import Incompatible

# He et al. 2016, table 1: (blocks of the four stages, convolutions of a block)
NETS: dict[tuple[tuple[int, ...], int], str] = {
    ((2, 2, 2, 2), 2): "resnet18",
    ((3, 4, 6, 3), 2): "resnet34",
    ((3, 4, 6, 3), 3): "resnet50",
    ((3, 4, 23, 3), 3): "resnet101",
    ((3, 8, 36, 3), 3): "resnet152",
}


def adapt(state: dict[str, Tensor], notes: list[str]) -> dict[str, Tensor]:
    return drop(state, ("fc.",), notes)


def net_of(state: Mapping[str, Tensor]) -> str:
    """timm's name of the net. Raises Incompatible where the blocks are of no published ResNet."""
    blocks = tuple(len({n.split(".")[1] for n in state if n.startswith(f"layer{stage}.")}) for stage in (1, 2, 3, 4))
    found = NETS.get((blocks, 3 if "layer1.0.conv3.weight" in state else 2))
    if found is None:
        raise Incompatible(f"a ResNet with blocks {blocks} is none of {', '.join(NETS.values())}; choose one of these")
    return found
