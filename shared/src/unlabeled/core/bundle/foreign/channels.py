"""A first convolution for other channels than it was trained with. Every policy keeps the answer to equal channels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unlabeled.core.contracts import Incompatible

RGB = ("red", "green", "blue")
SHORT = {"r": "red", "g": "green", "b": "blue"}


def adapted(weight: Tensor, channels: Sequence[str], read: Sequence[str] = ()) -> tuple[Tensor, str]:
    """weight (D, C, *k) trained with C channels -> (D, len(channels), *k), and the policy in one line.

    Where the weights name what they `read`, each channel gets its own; raises Incompatible where these are others.
    Three channels are red, green and blue. Where `channels` has these by name, each gets its own weights, any other one
    the mean of the three, and all are scaled by 3 / len(channels). Else C equal numbers of channels are taken in order,
    unless they are three, and all other channels share the mean over the input channels, scaled by C / len(channels).
    The sum over the input channels stays, so that channels of equal values give what they gave before.
    """
    had, want = weight.shape[1], len(channels)
    if read:
        if sorted(read) != sorted(channels) or len(read) != had:
            raise Incompatible(
                f"the weights read {', '.join(read)}, the data have {', '.join(channels)}; name these channels, and no other, "
                "in the reader's options"
            )
        return weight[:, [read.index(c) for c in channels]], "channels: each its own weights, by name"
    names = [SHORT.get(c.lower(), c.lower()) for c in channels]
    mean = weight.mean(1)
    if had == 3 and set(RGB) <= set(names):
        new = torch.stack([weight[:, RGB.index(n)] if n in RGB else mean for n in names], 1) * (3 / want)
        rest = [c for c, n in zip(channels, names, strict=True) if n not in RGB]
        return new, "channels: red, green, blue by name" + (
            f", the mean of them for {', '.join(rest)}, all scaled by 3/{want}" if rest else ""
        )
    if had == want != 3:
        return weight, f"channels: the weights name none of their {had}; taken in order as {', '.join(channels)}"
    new = mean[:, None].expand(-1, want, *weight.shape[2:]) * (had / want)
    return new.contiguous(), (
        f"channels: the mean over {had} input channels for {', '.join(channels)}, scaled by {had}/{want}"
    )
