"""What methods share that learn from a frozen teacher's tokens: which teachers fit, and the heads that reach its width."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import nn

from unlabeled.core.contracts import Incompatible, RequestError
from unlabeled.core.methods import base
from unlabeled.core.nn.base import Encoder
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.nn.transformer import xavier


class Learning(base.Options):
    teacher: str = Field(
        min_length=1, description="the frozen teacher: a bundle's folder, stage:NAME, timm:NAME or a weight file"
    )
    teacher_options: dict[str, Any] = Field(
        {}, description="what the teacher's weights leave open, as under encoder: heads, grid"
    )


def token_teacher(teacher: Encoder, student: TokenEncoder) -> TokenEncoder:
    """`teacher` itself, frozen. Raises Incompatible where its tokens are not those of the student; widths may differ."""
    if not isinstance(teacher, TokenEncoder):
        raise Incompatible(
            f"method.teacher: it is a {type(teacher).__name__} and has no tokens; name the weights of a token encoder"
        )
    for what, theirs, ours in (
        ("inputs", list(teacher.specs), list(student.specs)),
        ("patches", teacher.patch, student.patch),
        ("numbers in a patch", teacher.patch_widths, student.patch_widths),
    ):
        if theirs != ours:
            raise Incompatible(
                f"method.teacher: its {what} are {theirs}, the student's {ours}, so their tokens are not the same; give "
                "the recipe the encoder.patch of the teacher, or name another teacher"
            )
    return teacher.requires_grad_(False)


def needed(teacher: TokenEncoder | None, method: str) -> TokenEncoder:
    """`teacher` itself. Raises RequestError where there is none."""
    if teacher is None:
        raise RequestError(
            f"method {method}: there is no teacher; name its weights in method.teacher, for example stage:mae"
        )
    return teacher


def drawn_seed() -> int:
    """A seed from torch's stream: what is built later, from a teacher's sizes, has start values of the method's seed."""
    return int(torch.randint(2**62, ()))


def linear_heads(count: int, width: int, outputs: int, seed: int) -> nn.ModuleList:
    """Linear layers from `width` to `outputs` with start values of this seed; torch's own stream stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = nn.ModuleList(nn.Linear(width, outputs) for _ in range(count))
        xavier(heads)
    return heads
