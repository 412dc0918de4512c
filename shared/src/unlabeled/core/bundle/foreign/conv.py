"""From a convolutional net of timm's names to the encoder that wraps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
from torch import Tensor

from unlabeled.core.bundle.foreign.channels import adapted
from unlabeled.core.bundle.foreign.files import left_out
from unlabeled.core.contracts import Incompatible, InputSpec
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.nn.backbone import TimmBackbone


def flat(name: str) -> str:
    """timm's nets for feature maps join the names of a sequence with an underscore."""
    return name.replace(".", "_")


def encoder_of(
    net: str,
    state: Mapping[str, Tensor],
    name: str,
    spec: InputSpec,
    options: Mapping[str, Any],
    notes: list[str],
    read: Sequence[str] = (),
) -> TimmBackbone:
    """The encoder around timm's `net` with the weights of its whole model, for the channels of `spec`.

    options: `stages`, as of the encoder. read: names of the channels of the weights, where they are known. Raises
    Incompatible where a tensor is missing or of another shape.
    """
    wanted = {"model": net, **({"stages": options["stages"]} if "stages" in options else {})}
    encoder = TimmBackbone({name: spec}, validated(TimmBackbone.Options, wanted, "encoder"))
    given = {flat(n): value for n, value in state.items()}
    own = encoder.net.state_dict()
    missing = [n for n in own if flat(n) not in given]
    if missing:
        raise Incompatible(
            f"{len(missing)} of {len(own)} tensors of {net} are missing ({', '.join(missing[:3])}); choose other weights"
        )
    rest = [n for n in state if flat(n) not in {flat(o) for o in own}]
    if rest:
        notes.append(left_out(rest).removeprefix("; "))
    first = entrance(net, own)
    taken = {n: given[flat(n)] for n in own}
    weight, line = adapted(taken[first], spec.channels, read)
    if weight.shape != taken[first].shape or not weight.equal(taken[first]):
        notes.append(line)
    taken[first] = weight
    wrong = [n for n in own if taken[n].shape != own[n].shape]
    if wrong:
        raise Incompatible(
            f"{len(wrong)} of {len(own)} tensors have another shape than {net} has ({', '.join(wrong[:3])})"
        )
    encoder.net.load_state_dict(taken)
    return encoder


def entrance(net: str, own: Mapping[str, Tensor]) -> str:
    """The tensor that reads the channels: the only one whose shape changes with their number."""
    other = timm.create_model(net, pretrained=False, features_only=True, in_chans=2).state_dict()
    three = timm.create_model(net, pretrained=False, features_only=True, in_chans=3).state_dict()
    found = [n for n in own if other[n].shape != three[n].shape]
    if len(found) != 1 or own[found[0]].ndim != 4:
        raise Incompatible(
            f"{net} reads its channels in {len(found)} places, which cannot be adapted; choose another net"
        )
    return found[0]
