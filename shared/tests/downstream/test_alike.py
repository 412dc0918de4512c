from typing import Any

import numpy as np
import pytest
import torch

from unlabeled.core import streams
from unlabeled.core.contracts import BadInput, Input, InputSpec, RunFailed, Sample
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.downstream.alike import tuned
from unlabeled.core.downstream.batches import Balanced
from unlabeled.core.nn.base import Encoder, Features

CLASSES = 3
MEANS = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])[:, :, None]  # class, channel
SPECS = {"x": InputSpec(channels=("a", "b"), units=("", ""), spacing=(1.0,))}


class Shifted:
    """Items of 2 channels and 8 samples of noise around the means of their class; those in `forbidden` must not be read."""

    def __init__(
        self, labels: list[int], salt: int = 0, forbidden: tuple[int, ...] = (), bad: tuple[int, ...] = ()
    ) -> None:
        self.labels, self.salt, self.forbidden, self.bad = labels, salt, forbidden, bad

    def __len__(self) -> int:
        return len(self.labels)

    def sample(self, i: int) -> Sample:
        assert i not in self.forbidden
        if i in self.bad:
            raise BadInput(f"item {i} is broken")
        noise = streams.rng(self.salt, "item", i).standard_normal((2, 8)) * 0.3
        x = Input((noise + MEANS[self.labels[i]]).astype(np.float32), ("a", "b"), ("", ""), unit="s", spacing=(1.0,))
        return Sample({"x": x}, key=str(i), group="g", index=i, record=i)


class Net(Encoder):
    def __init__(self) -> None:
        super().__init__(SPECS, 8, 8)
        self.layer = torch.nn.Linear(16, 8)
        with torch.no_grad():
            self.layer.weight.copy_(torch.randn(8, 16, generator=streams.generator(0, "net")) * 0.3)
            self.layer.bias.zero_()

    def forward(self, inputs: Any) -> Features:
        x = inputs["x"]
        assert isinstance(x, Dense)
        pooled = self.layer(x.values.flatten(1)).tanh()
        return Features(pooled[:, None], torch.ones(len(pooled), 1, dtype=torch.bool), pooled)


LABELS = [i % CLASSES for i in range(12)]
TRAIN, TEST = Shifted(LABELS), Shifted(LABELS, salt=1)


def fitted(**changes: Any) -> Any:
    options: dict[str, Any] = {"lr": 0.03, "steps": 60, "seed": 0, **changes}
    return tuned(Net(), TRAIN, np.array(LABELS), TEST, CLASSES, **options)


def test_learns_what_is_there_and_repeats_to_the_bit() -> None:
    found = fitted()
    # the means of two classes differ by 1.4 or more, the mean of 8 samples has deviation 0.11: every item is told apart
    assert found.argmax(1).tolist() == LABELS
    np.testing.assert_allclose(np.exp(found).sum(1), 1.0, atol=1e-5)
    torch.rand(3)  # the global stream is not what it depends on
    assert fitted().tobytes() == found.tobytes()
    assert fitted(seed=1).tobytes() != found.tobytes()


def test_the_given_encoder_stays_as_it_was() -> None:
    net = Net()
    before = net.layer.weight.detach().clone()
    tuned(net, TRAIN, np.array(LABELS), TEST, CLASSES, lr=0.01, steps=3, seed=0)
    assert torch.equal(net.layer.weight, before)


def test_unlabelled_items_are_never_read() -> None:
    labels = np.array(LABELS)
    labels[[3, 4, 5]] = -1
    source = Shifted(LABELS, forbidden=(3, 4, 5))
    found = tuned(Net(), source, labels, TEST, CLASSES, lr=0.01, steps=10, seed=0)
    assert found.shape == (12, 3)


def test_an_item_drawn_twice_for_a_batch_gets_two_views() -> None:
    # 12 items fill a batch of 64, so each comes at least 5 times; one uniform draw of 24 bits per place differs in all
    seen = []

    def views(batch: Batch, draw: streams.Draw) -> Batch:
        seen.append(draw.uniform("u", 1).flatten())
        return batch

    fitted(steps=2, views=views)
    assert all(len(set(u.tolist())) == 64 for u in seen)
    assert not torch.equal(*seen)


def test_divergence_and_unreadable_items_are_errors() -> None:
    with pytest.raises(RunFailed, match=r"learning rate 1e\+30 diverged"):
        fitted(lr=1e30)
    with pytest.raises(BadInput, match="item 1 is broken"):
        tuned(Net(), Shifted(LABELS, bad=(1,)), np.array(LABELS), TEST, CLASSES, lr=0.01, steps=1, seed=0)
    with pytest.raises(BadInput, match="item 2 is broken"):
        tuned(Net(), TRAIN, np.array(LABELS), Shifted(LABELS, bad=(2,)), CLASSES, lr=0.01, steps=1, seed=0)


def test_balanced_batches() -> None:
    # 64 places, 3 classes: 22, 21 and 21 by lot; the 2 items of class 2 come 10 or 11 times, item 5 (failed) never
    label = np.array([0] * 40 + [1] * 25 + [2, 2, 2] + [-1] * 5)
    plan = Balanced(label, 64)
    extra = []
    for epoch in range(12):
        (ids,) = plan(0, epoch, without={65})
        counts = np.bincount(label[ids], minlength=3)
        assert sorted(counts) == [21, 21, 22]
        extra.append(int(counts.argmax()))
        assert len(np.unique(ids[label[ids] == 0])) == counts[0]
        assert set(np.bincount(ids, minlength=73)[[66, 67]]) <= {10, 11}
        assert 65 not in ids
    assert set(extra) == {0, 1, 2}
    assert np.array_equal(plan(0, 3)[0], plan(0, 3)[0])
    assert plan.steps(0) == 1
    assert Balanced(np.array([-1, 0]), 4).steps(0, {1}) == 0
