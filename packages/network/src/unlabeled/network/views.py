"""Views of one flow: (x, draw, spec, **options) -> x, per item, on the device. For methods that agree across views.

A view keeps the shape: it marks tokens invalid or changes their values. Draws are keyed by the item and by the number of the
burst, of the packet in it, and of the token, so that a view depends neither on padding nor on the rest of the batch. They
wait for the device where they must know how many there are. Raises RequestError for an input that is no flow.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Packed
from unlabeled.core.streams import Draw
from unlabeled.network.fields import CHANNELS, first

# what is said of a burst from its packets, and what is counted over the packets of a flow
SUMS = (first("bytes"), first("packets"))


def drop_packets(x: Packed, draw: Draw, spec: InputSpec, *, share: float = 0.2) -> Packed:
    """Each packet is lost with this chance, as in a capture that misses some; the first of a flow stays.

    What is said of bytes and packets of a burst that lost some is taken out: it would be wrong. A burst that lost all of
    its packets goes whole. Other numbers, as those of bytes sent, stay as they are, since they count what was lost too.
    """
    _check(spec, "drop_packets", share=share)
    burst, packet = _places(x)
    noise = draw.uniform("packet", int(burst.max(initial=0)) + 1, int(packet.max(initial=0)) + 1)
    return x
