"""Loading: which items, in which batch, whatever the workers, the ranks and the failures."""

import numpy as np
import pytest
import torch

from unlabeled.core.contracts import BadInput, Constants, Input, InputSpec, Normaliser, RequestError, Sample
from unlabeled.core.data.loading import Collate, Loader, Missing, share
from unlabeled.core.data.plans import InOrder, Uniform

SPEC = InputSpec(channels=("a",), units=("V",), spacing=(1.0,))


class Lengths:
    """Item i is i % 5 + 1 samples of value i; the bad ones cannot be read."""

    def __init__(self, n: int, bad: tuple[int, ...] = ()) -> None:
        self.n, self.bad = n, bad

    def __len__(self) -> int:
        return self.n

    def sample(self, i: int) -> Sample:
        if i in self.bad:
            raise BadInput(f"item {i} is broken")
        x = Input(np.full((1, i % 5 + 1), i, np.float32), ("a",), ("V",), unit="s", spacing=(1.0,))
        return Sample({"x": x}, key=str(i), group="g", index=i, record=i // 2)


def loader(n: int = 23, batch: int = 4, bad: tuple[int, ...] = (), workers: int = 0) -> Loader:
    return Loader(Lengths(n, bad), {"x": SPEC}, Uniform(n, batch), seed=3, workers=workers)


def seen(made: Loader, start: int, stop: int) -> list[tuple[int, list[int]]]:
    return [(epoch, batch.index.tolist()) for epoch, batch in made.batches(start, stop)]


def test_a_plan_is_a_permutation_cut_into_batches() -> None:
    plan = Uniform(23, 4)
    first = np.concatenate(plan(3, 0))
    assert plan.steps(0) == len(plan(3, 0)) == 5
    assert len(set(first.tolist())) == 20
    assert not np.array_equal(first, np.concatenate(plan(3, 1)))
    np.testing.assert_array_equal(first, np.concatenate(plan(3, 0)))
    assert {0, 7}.isdisjoint(np.concatenate(plan(3, 0, {0, 7})).tolist())


def test_in_order_takes_every_item_once_with_a_short_tail() -> None:
    assert [ids.tolist() for ids in InOrder(5, 2)(0, 0)] == [[0, 1], [2, 3], [4]]
    assert InOrder(5, 2).steps(0) == 3


def test_any_range_of_steps_gives_the_batches_of_the_whole() -> None:
    whole = seen(loader(), 0, 13)  # 5 batches an epoch: epochs 0, 1 and part of 2
    assert [epoch for epoch, _ in whole] == [0] * 5 + [1] * 5 + [2] * 3
    for start, stop in ((0, 1), (3, 9), (5, 5), (12, 13)):
        assert seen(loader(), start, stop) == whole[start:stop]


def test_workers_change_nothing() -> None:
    assert seen(loader(workers=2), 3, 12) == seen(loader(), 3, 12)


def test_ranks_share_a_batch_equally_with_padding() -> None:
    ids = np.arange(5)
    assert [share(ids, r, 2) for r in (0, 1)] == [[0, 1, 2], [3, 4, -1]]
    assert [share(ids, r, 3) for r in (0, 1, 2)] == [[0, 1], [2, 3], [4, -1]]
    assert share(ids, 0, 1) == [0, 1, 2, 3, 4]


def test_a_failing_item_stays_once_with_weight_zero_and_then_is_left_out() -> None:
    made = loader(n=8, batch=4, bad=(5,))
    batches = list(made.batches(0, 4))
    first = [b for e, b in batches if e == 0]
    index, weight = torch.cat([b.index for b in first]), torch.cat([b.weight for b in first])
    assert sorted(index.tolist()) == list(range(8))
    assert weight[index == 5].tolist() == [0.0] and weight.sum() == 7
    at = next(b for b in first if 5 in b.index)
    assert not at.inputs["x"].valid[at.index == 5].any()
    assert made.failures == {5: (0, "item 5 is broken")}
    # 7 items are left: one batch of 4 an epoch, without 5
    assert [e for e, _ in batches] == [0, 0, 1, 2]
    assert all(5 not in b.index for e, b in batches if e > 0)


def test_a_resume_after_failures_sees_the_same_batches() -> None:
    made = loader(n=8, batch=4, bad=(5,))
    whole = seen(made, 0, 6)
    again = loader(n=8, batch=4, bad=(5,))
    again.failures = dict(made.failures)
    assert seen(again, 3, 6) == whole[3:]


def test_too_few_items_say_so() -> None:
    with pytest.raises(RequestError, match="3 items fill no batch; set batch_size to 3 or lower"):
        loader(n=3, batch=4)


def test_collate_pads_at_the_far_end_and_marks_it() -> None:
    samples = [Lengths(9).sample(1), Missing(-1), Lengths(9).sample(8), Missing(4, "gone")]
    batch = Collate({"x": SPEC})(samples)
    x = batch.inputs["x"]
    assert x.values.shape == (4, 1, 4)
    assert x.valid[:, 0].sum(1).tolist() == [2, 0, 4, 0]
    assert not x.whole and Collate({"x": SPEC})([samples[0], samples[0]]).inputs["x"].whole
    assert x.values.sum((1, 2)).tolist() == [2.0, 0.0, 32.0, 0.0]
    assert batch.weight.tolist() == [1, 0, 1, 0] and batch.index.tolist() == [1, -1, 8, 4]
    assert batch.record.tolist() == [0, -1, 4, -1]
    assert batch.failed == {4: "gone"}


def test_a_batch_of_nothing_but_failures_still_has_a_shape() -> None:
    x = Collate({"x": SPEC})([Missing(0, "a"), Missing(1, "b")]).inputs["x"]
    assert x.values.shape == (2, 1, 1) and not x.valid.any()


def test_packed_and_graph_batches_number_their_tokens_through() -> None:
    spec = InputSpec(layout="graph", channels=("p",), units=("",), axes=("place",), unit="px")

    def ring(n: int) -> Sample:
        edges = np.stack([np.arange(n), (np.arange(n) + 1) % n])
        x = Input(np.ones((n, 1)) * n, ("p",), ("",), layout="graph", edges=edges)
        return Sample({"x": x}, key=str(n), group="g", index=n)

    x = Collate({"x": spec})([ring(3), Missing(-1), ring(2)]).inputs["x"]
    assert x.offsets.tolist() == [0, 3, 4, 6]
    assert x.owner.tolist() == [0, 0, 0, 1, 2, 2]
    assert x.valid.tolist() == [True, True, True, False, True, True]
    assert x.edges.tolist() == [[0, 1, 2, 4, 5], [1, 2, 0, 5, 4]]


class Counts:
    """Two channels of integers of one type, the second row shorter and partly invalid; `stored` keeps the integers."""

    def __init__(self, *kinds: type[np.generic]) -> None:
        self.kinds = kinds
        constants = {
            "s": Constants(offset=(100.0, -3.0), scale=(7.0, 0.3)),
            "t": Constants(offset=(1.0, 2.0), scale=(3.0, 4.0)),
        }
        self.normaliser = Normaliser(method="standard", constants=constants)
        self.spec = InputSpec(channels=("a", "b"), units=("", ""), spacing=(1.0,), normaliser=self.normaliser)

    def __len__(self) -> int:
        return len(self.kinds)

    def raw(self, i: int) -> Sample:
        data = np.arange(2 * (6 - i)).reshape(2, -1).astype(self.kinds[i])
        valid = None if i == 0 else np.arange(6 - i)[None] != 1
        x = Input(data, ("a", "b"), ("", ""), unit="s", spacing=(1.0,), valid=valid, source="st"[i % 2])
        return Sample({"x": x}, key=str(i), group="g", index=i, record=i)

    def stored(self, i: int) -> Sample:
        sample = self.raw(i)
        return sample.map(x=self.normaliser.put_off(sample.inputs["x"]))

    def sample(self, i: int) -> Sample:
        sample = self.raw(i)
        return sample.map(x=self.normaliser.apply(sample.inputs["x"]))


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [
        ((np.uint8, np.uint8), torch.uint8),
        ((np.int16, np.int16), torch.int16),
        ((np.uint8, np.int16), torch.float32),  # mixed: normalised on the host
        ((np.uint16, np.uint16), torch.float32),  # a type that devices hardly know
        ((np.float32, np.float32), torch.float32),
    ],
)
def test_integers_travel_as_they_are_and_are_normalised_to_the_same(
    kinds: tuple[type[np.generic], ...], dtype: torch.dtype
) -> None:
    source = Counts(*kinds)
    collate = Collate({"x": source.spec})
    travels = collate([source.stored(0), Missing(-1), source.stored(1)])
    x, host = travels.inputs["x"], collate([source.sample(0), Missing(-1), source.sample(1)]).inputs["x"]
    assert x.values.dtype == dtype and host.values.dtype == torch.float32
    made = travels.ready().inputs["x"]
    torch.testing.assert_close(made.values, host.values, rtol=1e-6, atol=1e-6)
    assert torch.equal(made.valid, host.valid) and made.whole == host.whole
    assert made.offset is None and made.ready() is made
    # (0 - 100) / 7 in the first channel of the first item; padding and what is invalid are 0
    assert (
        made.values[0, 0, 0] == pytest.approx(-100 / 7)
        and not made.values[1].any()
        and not made.values[2, :, [1, 5]].any()
    )
    whole = collate([source.stored(0), source.stored(0)])
    assert whole.inputs["x"].whole and torch.equal(whole.ready().inputs["x"].values[1], host.values[0])


def test_the_loader_takes_what_is_stored() -> None:
    source = Counts(np.uint8, np.uint8)
    ((_, batch),) = Loader(source, {"x": source.spec}, InOrder(2, 2), seed=0).batches(0, 1)
    assert batch.inputs["x"].values.dtype == torch.uint8


def test_rows_are_cut_into_parts() -> None:
    source = Counts(np.uint8, np.uint8)
    batch = Collate({"x": source.spec})([source.stored(0), Missing(-1), source.stored(1)])
    parts = batch.parts(2)
    assert [p.index.tolist() for p in parts] == [[0, -1], [1]]
    joined = torch.cat([p.ready().inputs["x"].values for p in parts])
    assert torch.equal(joined, batch.ready().inputs["x"].values)


def test_a_batch_is_read_again_by_its_step() -> None:
    made = loader(n=8, batch=4, bad=(5,))
    whole = list(made.batches(0, 6))
    for step in (0, 1, 4):
        again = made.at(step)
        assert torch.equal(again.index, whole[step][1].index) and torch.equal(again.weight, whole[step][1].weight)
