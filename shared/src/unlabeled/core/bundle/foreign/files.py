"""A weight file as named tensors. Nothing in it is ever run."""

from __future__ import annotations

import argparse
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from unlabeled.core.contracts import Incompatible

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
CONTAINERS = ("teacher", "model", "state_dict", "model_state_dict")  # a teacher before the student beside it
WRAPPERS = {"module", "backbone", "encoder", "model", "vit", "teacher"}
INSIDE = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # torch puts these between any names


def read_tensors(path: Path, notes: list[str]) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a torch file read with `weights_only=True`.

    Raises Incompatible where it is damaged, holds anything but tensors and plain values, or claims more than it holds.
    """
    if path.suffix not in SUFFIXES:
        raise Incompatible(f"{path} is no weight file ({', '.join(SUFFIXES)}); save the state dict as one of these")
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else _torch(path)
    except Exception as error:  # torch's unpickler raises anything of a damaged file
        first = " ".join(str(error).split())[:120]
        raise Incompatible(
            f"{path} cannot be read as weights alone ({first}); save its state dict as .safetensors"
        ) from None
    while isinstance(found, Mapping):
        inside = next((k for k in CONTAINERS if isinstance(found.get(k), Mapping)), None)
        if inside is None:
            break
        notes.append(f"taken from the file's {inside!r}")
        found = found[inside]
    tensors = {k: v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise Incompatible(f"{path} holds no named tensors; save a state dict")
    # a view of stride 0 may claim any size
    if any(t.numel() * t.element_size() > t.untyped_storage().nbytes() for t in tensors.values()):
        raise Incompatible(f"{path} claims more values than it holds; save its state dict as .safetensors")
    return tensors


def _torch(path: Path) -> Any:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise ValueError("it is compressed, as torch never writes it")
    # papers' checkpoints keep their command line beside the weights: a namespace is plain values
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        # said of files that torch did not write, before it reads or refuses them
        warnings.filterwarnings("ignore", message="Detected pickle protocol")
        return torch.load(path, map_location="cpu", weights_only=True)


def unwrapped(state: Mapping[str, Tensor], anchor: str, notes: list[str]) -> dict[str, Tensor]:
    """The tensors under the wrapper that holds `anchor`, without its prefix. Raises Incompatible where there is none."""
    plain = {_without(name): value for name, value in state.items()}
    if set(plain) != set(state):
        notes.append("names without torch's wrappers (compiled, sharded or checkpointed modules)")
    prefixes = [n.removesuffix(anchor) for n in plain if n == anchor or n.endswith("." + anchor)]
    prefixes = [p for p in prefixes if set(p.split(".")[:-1]) <= WRAPPERS]
    prefixes = [p for p in prefixes if "teacher" in p] or prefixes
    if len(prefixes) != 1:
        some = ", ".join(list(plain)[:3])
        raise Incompatible(
            f"the weights have {len(prefixes) or 'no'} {anchor} (they begin with {some}); name the format they have"
        )
    (prefix,) = prefixes
    if not prefix:
        return plain
    outside = [n for n in plain if not n.startswith(prefix)]
    notes.append(f"names without {prefix!r}" + left_out(outside))
    return {n.removeprefix(prefix): v for n, v in plain.items() if n.startswith(prefix)}


def left_out(names: list[str]) -> str:
    if not names:
        return ""
    heads = sorted({n.partition(".")[0] for n in names})
    return f"; left out: {', '.join(heads)} ({len(names)} tensors)"


def drop(state: Mapping[str, Tensor], prefixes: tuple[str, ...], notes: list[str]) -> dict[str, Tensor]:
    """`state` without the tensors that are no part of the encoder, which the notes name."""
    gone = [n for n in state if n.startswith(prefixes)]
    if gone:
        notes.append(left_out(gone).removeprefix("; "))
    return {n: v for n, v in state.items() if n not in set(gone)}


def _without(name: str) -> str:
    for part in INSIDE:
        name = name.replace(part, "")
    return name


def finite(state: Mapping[str, Tensor], what: object) -> None:
    """Raises Incompatible where a tensor holds a value that is no number."""
    for name, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise Incompatible(f"{what}: {name} holds values that are not finite; take weights of an earlier step")
