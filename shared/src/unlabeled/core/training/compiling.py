"""Compiling the blocks that a network repeats: one of them is compiled, all of them run it."""

from __future__ import annotations

import logging

from torch import nn

log = logging.getLogger(__name__)


def blocks(module: nn.Module) -> list[nn.Module]:
    """Children of one kind that a list holds more than once and that have parts of their own: the layers of a network."""
    found: dict[int, nn.Module] = {}
    for holder in module.modules():
        if isinstance(holder, nn.ModuleList | nn.Sequential):
            kinds = [type(child) for child in holder]
            for child in holder:
                if kinds.count(type(child)) > 1 and next(child.children(), None) is not None:
                    found[id(child)] = child
    return list(found.values())


def compile_blocks(module: nn.Module) -> int:
    """Compile the repeated blocks in place, so that the names of the weights stay; how many there are."""
    found = blocks(module)
    for block in found:
        block.compile()
    if not found:
        log.warning("trainer.compile: the network repeats no block, so that nothing is compiled")
    return len(found)
