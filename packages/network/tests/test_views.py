"""Views of flows: what they change, by how much, and that nothing else does."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from unlabeled.core.build import VIEWS, build_views
from unlabeled.core.contracts import InputSpec, RequestError, load
from unlabeled.core.contracts.batch import Packed
from unlabeled.core.contracts.domain import methods
from unlabeled.core.contracts.recipe import View
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.streams import Draw
from unlabeled.core.testing.method import CTX
from unlabeled.network import domain, views
from unlabeled.network.encoder import FlowEncoder
from unlabeled.network.flow.fields import VOCABULARY, first
from unlabeled.network.testing import SPEC, Burst, batched, conversation, flow, packed

GIVEN: dict[str, dict[str, Any]] = {
    "drop_packets": {"share": 0.4},
    "drop_fields": {"share": 0.3},
    "drop_kinds": {"kinds": ["ttl", "seq", "length"], "share": 0.5},
    "jitter_gaps": {"factor": 4.0},
    "first_bursts": {"least": 2},
}


def draws(n: int, epoch: int = 0) -> Draw:
    return Draw(0, epoch, torch.arange(n) + 100, "view")


def flows(n: int = 40, bursts: int = 8) -> list[Any]:
    return [flow(conversation(np.random.default_rng(i), bursts), ("tcp", "udp")[i % 2]) for i in range(n)]


def view(name: str, x: Packed, draw: Draw, **options: Any) -> Packed:
    function: Callable[..., Packed] = getattr(views, name)
    return function(x, draw, SPEC, **(GIVEN[name] | options))


def near(count: float, n: float, p: float) -> bool:
    """Whether a share is within 4 standard deviations of a binomial one."""
    return abs(count / n - p) < 4 * math.sqrt(p * (1 - p) / n)


@pytest.mark.parametrize("name", GIVEN)
def test_a_view_depends_on_the_item_alone(name: str) -> None:
    every = flows(12)
    x = packed(every)
    together = view(name, x, draws(12))
    assert together.values.shape == x.values.shape and torch.equal(together.offsets, x.offsets)
    assert not torch.equal(together.valid, x.valid) or not torch.equal(together.values, x.values)
    for i in (0, 7, 11):
        alone = view(name, packed([every[i]]), replace(draws(12), items=torch.tensor([100 + i])))
        rows = slice(int(x.offsets[i]), int(x.offsets[i + 1]))
        assert torch.equal(together.valid[rows], alone.valid) and torch.equal(together.values[rows], alone.values)
    # another epoch, another view
    other = view(name, x, draws(12, epoch=1))
    assert not torch.equal(other.valid, together.valid) or not torch.equal(other.values, together.values)


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_invalid_stays_so_and_may_hold_anything(name: str) -> None:
    x = packed([*flows(3), None])
    valid = x.valid & (torch.rand(len(x.valid), generator=torch.Generator().manual_seed(0)) < 0.8)
    bad = replace(
        x,
        valid=valid,
        values=torch.where(valid[:, None], x.values, torch.nan),
        coords=torch.where(valid[:, None], x.coords, torch.nan),
    )
    a, b = (view(name, y, draws(4)) for y in (replace(x, valid=valid), bad))
    assert torch.equal(a.valid, b.valid) and not (a.valid & ~valid).any()
    assert torch.equal(a.values[a.valid], b.values[a.valid])


def test_lost_packets() -> None:
    x = packed(flows())
    y = view("drop_packets", x, draws(40), share=0.4)
    burst, packet = x.coords[:, 0], x.coords[:, 1]
    field = x.values[:, 0]
    ids = x.owner * 10_000 + burst.long() * 100 + packet.long()
    real = packet > 0
    lost = [bool(~y.valid[ids == i].any()) for i in ids[real].unique()]
    # packets are lost whole, by the share: 40 of them, the first of each flow, never
    assert all(y.valid[ids == i].all() or not y.valid[ids == i].any() for i in ids[real].unique())
    assert near(sum(lost), len(lost) - 40, 0.4)
    assert y.valid[real & (burst == 0) & (packet == 1)].all()
    # what is said of a burst: bytes and packets only where none was lost, nothing where all were
    of = x.owner * 100 + burst.long()
    for i in of.unique():
        kept, own = y.valid[(of == i) & real], (of == i) & ~real
        known = y.valid[own][field[own].argsort()].tolist()
        assert known == ([True] * 4 if kept.all() else [True, False, False, True] if kept.any() else [False] * 4)
    assert torch.equal(y.values, x.values)


def test_missing_fields() -> None:
    x = packed(flows())
    y = view("drop_fields", x, draws(40), share=0.3)
    assert near(int((~y.valid).sum()), len(x.valid) - 40, 0.3)
    assert y.valid[x.offsets[:-1]].all() and torch.equal(y.values, x.values)


def test_missing_kinds_are_missing_from_the_whole_flow() -> None:
    # each of three kinds is lost by itself with chance .5; the two tokens of `seq` go together with none but its first named
    x = packed(flows(400))
    after = view("drop_kinds", x, draws(400))
    field = x.values[:, 0].long()
    lost = {}
    for name in ("ttl", "seq", "length"):
        own = field == first(name)
        gone = torch.zeros(400).index_add(0, x.owner[own], (~after.valid[own]).float())
        all_of = torch.zeros(400).index_add(0, x.owner[own], torch.ones(int(own.sum())))
        assert ((gone == 0) | (gone == all_of)).all()
        lost[name] = gone[all_of > 0] > 0
        assert near(lost[name].sum(), len(lost[name]), 0.5)
    assert near((lost["ttl"] & lost["length"]).sum(), 400, 0.25)
    named = torch.isin(field, torch.tensor([first(n) for n in ("ttl", "seq", "length")] + [first("seq") + 1]))
    assert after.valid[~named].all()
    with pytest.raises(RequestError, match=r"drop_kinds\.kinds: .*did you mean 'window'"):
        view("drop_kinds", x, draws(400), kinds=["windows"])
    with pytest.raises(RequestError, match="'direction'"):
        view("drop_kinds", x, draws(400), kinds=["direction"])


def test_gaps_by_one_factor() -> None:
    x = packed(flows())
    y = view("jitter_gaps", x, draws(40), factor=4.0)
    gaps = x.values[:, 0] == first("gap")
    assert torch.equal(x.values[~gaps], y.values[~gaps]) and torch.equal(x.valid, y.valid)

    def us(z: Packed) -> torch.Tensor:
        return torch.exp2(z.values[:, 1] + z.values[:, 2] / 256) - 1

    factors = []
    for i in range(40):
        own = gaps & (x.owner == i)
        before, after = us(x)[own], us(y)[own]
        assert torch.equal(before == 0, after == 0) and (before == 0).sum() == 2
        # steps of 2^(1/256) on both sides, 0.27 % each, and gaps of less than 1 ms apart a few us more
        ratio = (after / before)[before > 1000]
        assert ratio.numel() > 3 and (ratio / ratio.mean() - 1).abs().max() < 0.008
        factors.append(math.log(float(ratio.mean()), 4))
    # uniform in the logarithm from -1 to 1: deviation 1 / sqrt(3)
    assert -1.01 < min(factors) < -0.8 and 0.8 < max(factors) < 1.01
    assert abs(sum(factors) / 40) < 4 / math.sqrt(3 * 40)
    assert torch.equal(view("jitter_gaps", x, draws(40), factor=1.0).values, x.values)


def test_a_longest_gap_stays_in_two_bytes() -> None:
    x = packed([flow([Burst(False, (1,), 0.0), Burst(False, (1,), 1e30)])])
    y = view("jitter_gaps", x, draws(1), factor=1e200)
    assert y.values.max() <= 255 and y.values.min() >= 0


def test_the_first_bursts() -> None:
    x = packed([flow(conversation(np.random.default_rng(i), 1 + i % 8)) for i in range(400)])
    y = view("first_bursts", x, draws(400), least=3)
    counts: dict[int, list[int]] = {}
    for i, own in enumerate(map(slice, x.offsets[:-1].tolist(), x.offsets[1:].tolist())):
        kept = sorted(set(x.coords[own, 0][y.valid[own]].tolist()))
        assert kept == list(range(len(kept)))  # the first, and whole
        assert torch.equal(y.valid[own], x.coords[own, 0] < len(kept))
        counts.setdefault(1 + i % 8, []).append(len(kept))
    for n, found in counts.items():
        assert set(found) == set(range(min(n, 3), n + 1))
        # 3, ..., 8 alike
        if n == 8:
            assert all(near(found.count(k), len(found), 1 / 6) for k in range(3, 9))


@pytest.mark.parametrize("encoder", ["flow", "tokens"])
@pytest.mark.parametrize("name", ["simclr", "vicreg"])
def test_two_view_methods_of_the_core_take_them(encoder: str, name: str) -> None:
    steps = build_views([View(name=v, **o) for v, o in GIVEN.items()], domain, {"x": SPEC})
    torch.manual_seed(0)
    made: Any
    if encoder == "flow":
        made = FlowEncoder({"x": SPEC}, FlowEncoder.Options(width=16, depth=1, heads=2))
    else:
        made = TokenEncoder({"x": SPEC}, TokenEncoder.Options(width=16, depth=1, heads=2, vocabulary=VOCABULARY))
    kind = load(methods()[name].target)
    m = kind(made, {"x": SPEC}, kind.Options(projector=(16, 16)), steps)
    optimiser, losses = torch.optim.AdamW(m.parameters(), lr=1e-2), []
    batch = batched(packed(flows(8, 4), torch.float32))
    for epoch in range(8):
        ctx = replace(CTX, epoch=epoch)
        out = m.step(m.on_batch(batch, ctx), ctx)
        optimiser.zero_grad()
        out["loss"].backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in m.parameters())
        optimiser.step()
        losses.append(float(out["loss"].detach()))
    assert sum(losses[-3:]) < sum(losses[:3])  # they learn, if only these eight


def test_what_does_not_fit_is_refused() -> None:
    url = InputSpec(layout="packed", channels=("id", "part"), units=("id", "id"), axes=("token",), unit="token")
    x = packed(flows(1))
    for name in GIVEN:
        with pytest.raises(RequestError, match=f"the view {name} is for the fields of flows"):
            getattr(views, name)(x, draws(1), url)
    for name, option, value in (("drop_packets", "share", 1.0), ("drop_fields", "share", -0.1), ("jitter_gaps", "factor", 0.5),
                                ("first_bursts", "least", 0)):  # fmt: skip
        with pytest.raises(RequestError, match=rf"{name}\.{option} is"):
            view(name, x, draws(1), **{option: value})
    assert set(domain.views) == set(GIVEN) and not set(GIVEN) & set(VIEWS)
