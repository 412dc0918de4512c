"""What the options of a token encoder mean for given inputs. RequestError where they do not fit each other.

It stands alone to keep the encoder itself short.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.recipe import nearest

Sizes = tuple[int, ...]
Scale = tuple[float, ...]


def check(specs: Mapping[str, InputSpec], options: Any) -> None:
    """Raises RequestError for options of the class token, of positions and of causal order that these inputs cannot have."""
    if options.pool == "cls" and not options.cls:
        raise RequestError("encoder: pool is cls but there is no class token; set cls: true")
    if options.positions == "learned":
        for name, spec in specs.items():
            if len(options.grid) != spec.rank:
                raise RequestError(
                    f"encoder.grid: learned positions of {name!r} need {spec.rank} numbers, got {options.grid}"
                )
    head, axes = options.width // options.heads, max(spec.rank for spec in specs.values())
    if options.positions == "rope" and (head % 2 or head < 2 * axes):
        raise RequestError(
            f"encoder.positions: rope turns pairs of channels, so {axes} axes need an even number of at least "
            f"{2 * axes} channels a head, and a width of {options.width} with {options.heads} heads has {head}"
        )
    for option in ("patch", "vocabulary", "position_scale"):
        if isinstance(given := getattr(options, option), dict) and (unknown := [n for n in given if n not in specs]):
            raise RequestError(f"encoder.{option}: {nearest(unknown[0], list(specs))}")
    first = next(iter(specs.values()))
    if (sizes := options.causal) and (
        len(specs) > 1 or len(sizes) != first.rank or min(sizes) < 1 or options.pool == "cls"
    ):
        raise RequestError(
            f"encoder.causal: needs one input, {first.rank} positive numbers for its axes "
            f"({', '.join(first.axes)}), and another pool than cls, got {list(sizes)}"
        )


def patch(name: str, spec: InputSpec, given: Sizes | dict[str, Sizes]) -> Sizes:
    """The patch of one input; () for packed inputs, whose tokens are single."""
    if spec.layout != "dense":
        return ()
    sizes = given.get(name, ()) if isinstance(given, dict) else given
    if len(sizes) != spec.rank or any(p < 1 for p in sizes):
        raise RequestError(
            f"encoder.patch: the input {name!r} has the axes {', '.join(spec.axes)} and needs {spec.rank} "
            f"positive numbers, got {list(sizes)}"
        )
    return sizes


def vocabulary(name: str, spec: InputSpec, patch: Sizes, given: Sizes | dict[str, Sizes]) -> Sizes:
    """Sizes of the vocabularies of one input's channels; () where its channels are measured values."""
    sizes = given.get(name, ()) if isinstance(given, dict) else given
    if sizes and (len(sizes) != spec.width or min(sizes) < 1 or any(p > 1 for p in patch)):
        raise RequestError(
            f"encoder.vocabulary: the input {name!r} needs a positive number for each of its {spec.width} channels, and "
            f"patches of one cell, got {list(sizes)} and patches of {list(patch) or [1]}"
        )
    if sizes and spec.normaliser.method != "none":
        raise RequestError(
            f"encoder.vocabulary: the ids of {name!r} would be normalised ({spec.normaliser.method}), and then they are no "
            "ids; set data.normaliser: none"
        )
    return sizes


def scales(
    specs: Mapping[str, InputSpec], patch: Mapping[str, Sizes], given: Scale | dict[str, Scale] | None
) -> dict[str, Scale]:
    """Size of a patch in physical units by input.

    Inputs that share axes and unit share the scale of the first of them, so that equal places have equal positions.
    """
    first: dict[tuple[tuple[str, ...], str], Scale] = {}
    out = {}
    for name, spec in specs.items():
        ones = (1.0,) * spec.rank
        size = tuple(p * s for p, s in zip(patch[name] or ones, spec.spacing or ones, strict=True))
        scale = first.setdefault((spec.axes, spec.unit), size)
        if given is not None:
            scale = given.get(name, scale) if isinstance(given, dict) else given
        if len(scale) != spec.rank or any(s <= 0 for s in scale):
            raise RequestError(
                f"encoder.position_scale: {name!r} needs {spec.rank} positive numbers, got {list(scale)}"
            )
        out[name] = tuple(float(s) for s in scale)
    return out
