"""Does what is learned carry over? Generated flows of three classes that differ in the timing of their bursts alone."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from unlabeled.core.contracts.batch import Packed
from unlabeled.core.testing.method import CTX
from unlabeled.network.encoder import FlowEncoder
from unlabeled.network.flow.fields import first
from unlabeled.network.methods.masked_packets import MaskedPackets
from unlabeled.network.testing import SPEC, batched

FLOWS, BURSTS, LABELLED = 600, 8, 120
# fixed before the first run: frozen features after training beat those before by so much, in accuracy of three classes
MARGIN = 0.1


def timed(seed: int, shuffled: bool = False) -> tuple[Packed, NDArray[np.int64]]:
    """Flows of which only gaps are seen: all of one octave, 1 to 2 ms, and of the lower, middle or upper third of it.

    shuffled: gaps are dealt to flows anew, so that no flow has a pace.
    """
    draw = np.random.default_rng(seed)
    classes = draw.integers(0, 3, FLOWS)
    low = (classes[:, None] * 85 + draw.integers(0, 85, (FLOWS, BURSTS))).ravel()
    if shuffled:
        draw.shuffle(low)
    field = np.full_like(low, first("gap"))
    values = torch.from_numpy(np.stack([field, np.full_like(low, 10), low], 1)).float()
    coords = torch.zeros(len(low), 3)
    coords[:, 0], coords[:, 2] = torch.arange(BURSTS).repeat(FLOWS), 3
    return Packed(values, torch.ones(len(low), dtype=torch.bool), coords, BURSTS * torch.arange(FLOWS + 1)), classes


def rows(x: Packed, at: NDArray[np.int64]) -> Packed:
    own = (BURSTS * torch.from_numpy(at)[:, None] + torch.arange(BURSTS)).flatten()
    return Packed(x.values[own], x.valid[own], x.coords[own], BURSTS * torch.arange(len(at) + 1))


def probed(encoder: FlowEncoder, x: Packed, classes: NDArray[np.int64]) -> float:
    """Accuracy of logistic regression on the frozen pooled features, of the flows without a label."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    with torch.no_grad():
        features = encoder({"x": x}).pooled.numpy()
    features = StandardScaler().fit_transform(features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted = LogisticRegression(C=0.1, max_iter=300).fit(features[:LABELLED], classes[:LABELLED])
    return float(fitted.score(features[LABELLED:], classes[LABELLED:]))


def trained(x: Packed, seed: int, steps: int = 500) -> Iterator[FlowEncoder]:
    """The encoder before and after training."""
    torch.manual_seed(seed)
    encoder = FlowEncoder({"x": SPEC}, FlowEncoder.Options(width=32, depth=1, heads=2))
    yield encoder
    m: Any = MaskedPackets(encoder, {"x": SPEC}, MaskedPackets.Options(packets=0.0, bursts=0.0, copies=True))
    optimiser = torch.optim.AdamW(m.parameters(), lr=5e-3)
    draw = np.random.default_rng(seed)
    for step in range(steps):
        at, ctx = draw.choice(FLOWS, 128, replace=False), replace(CTX, step=step, epoch=step)
        loss = m.step(m.on_batch(batched(rows(x, at)), ctx), ctx)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    yield encoder


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_training_beats_random_weights_on_timing_alone(seed: int) -> None:
    x, classes = timed(seed)
    encoders = trained(x, seed)
    before = probed(next(encoders), x, classes)
    encoder = next(encoders)
    after = probed(encoder, x, classes)
    assert after > before + MARGIN, (before, after)
    # and nothing is found where nothing is: within 4 standard deviations of a third of the 480
    chance = 4 * np.sqrt(2 / 9 / (FLOWS - LABELLED))
    other = np.random.default_rng(seed + 10).permutation(classes)
    assert abs(probed(encoder, x, other) - 1 / 3) < chance
    noise, _ = timed(seed, shuffled=True)
    *_, of_noise = trained(noise, seed, steps=50)
    assert abs(probed(of_noise, noise, classes) - 1 / 3) < chance
