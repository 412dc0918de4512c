"""A method with terms beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.base import Context, Method
from unlabeled.core.nn.base import Encoder
from unlabeled.core.terms.base import Term


@dataclass(frozen=True)
class Given:
    """What the method's own `on_batch` made of the batch, and the batch."""

    own: Any
    batch: Batch


class Beside(Method):
    """The half of a method with terms that knows the terms; the other half is the method's own class (see `beside`)."""

    encoder: Encoder
    beside: nn.ModuleDict
    beside_weights: dict[str, float]

    def on_batch(self, batch: Batch, ctx: Context) -> Given:
        return Given(super().on_batch(batch, ctx), batch)

    def step(self, batch: Given, ctx: Context) -> dict[str, Any]:
        out = super().step(batch.own, ctx)
        parts, loss = dict(out["parts"]), out["loss"]
        for name, term in self.beside.items():
            if name in parts:
                raise RequestError(
                    f"terms: {name} is a part of the method's own loss already; leave it out of one of them"
                )
            assert isinstance(term, Term)
            value = term.loss(self.encoder, batch.batch, ctx)
            loss, parts[name] = loss + self.beside_weights[name] * value, value.detach()
        return {**out, "loss": loss, "parts": parts}


def beside(method: Method, terms: Mapping[str, tuple[float, Term]]) -> Method:
    """The same method, whose loss is from now on its own and that of every term (weight, term) by name.

    Its class becomes one of both `Beside` and its own, as torch's parametrisations do. So all else of it stays its own
    (hooks, teacher, tables, export), and its weights keep their names; those of a term are `beside.NAME`.
    """
    kind = type(method)
    method.__class__ = type(f"{kind.__name__}With{''.join(name.title() for name in terms)}", (Beside, kind), {})
    assert isinstance(method, Beside)
    method.beside = nn.ModuleDict({name: term for name, (_, term) in terms.items()})
    method.beside_weights = {name: weight for name, (weight, _) in terms.items()}
    method.couples = method.couples or next((term.couples for _, term in terms.values() if term.couples), "")
    return method
