"""CLIP: its contract and oracles. All pairs of images and texts here are synthetic."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core import streams
from unlabeled.core.contracts import Incompatible, Input, InputSpec, RequestError, Sample
from unlabeled.core.contracts.batch import Batch, Dense, Packed
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.data.loading import Collate
from unlabeled.core.data.texts import text_input
from unlabeled.core.methods.base import unchanged
from unlabeled.core.methods.clip import CLIP
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.method import BATCH, CTX, Grids, MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients

TOWER = {"width": 16, "depth": 1, "heads": 2}


class Captioned(Grids):
    """Items with a text beside them: 5 ids below 9 on a grid, the last of which is padding in every second item."""

    def sample(self, i):
        made, draw = super().sample(i), streams.rng(0, "caption", i)
        valid = torch.tensor([[True] * 4 + [i % 2 == 0]])
        x = made.inputs["x"].with_(
            data=draw.integers(1, 9, (1, 5)).astype("float32"),
            channels=("id",),
            units=("id",),
            unit="token",
            spacing=(1.0,),
            valid=valid.numpy(),
        )
        return made.map(text=x)

    @property
    def specs(self):
        return {**super().specs, "text": InputSpec.of(self.sample(0).inputs["text"], axes=("token",))}


class Packs(Captioned):
    """The same texts, packed, without the padding."""

    def sample(self, i):
        made = super().sample(i)
        ids = made.inputs["text"].data[0][made.inputs["text"].valid[0]]
        return made.map(text=text_input("".join(chr(int(n) - 1) for n in ids)))


class TestCLIP(MethodContract):
    name = "clip"
    options = {"text_encoder": TOWER | {"vocabulary": (9,)}, "width": 8}

    @classmethod
    def source(cls):
        return Captioned(cls.shape)


class TestCLIPConvNet(TestCLIP):
    name = "clip"
    shape = (12, 12)
    encoder = ("convnet", {"channels": (8, 12), "kernels": (3, 3), "strides": (2, 2)})
    options = {"text_encoder": TOWER | {"vocabulary": (9,), "causal": (1,), "positions": "rope"}, "width": 8}


class Packed9(TestCLIP):
    """Not a contract of its own: a packed text waits for the device once, to learn the longest row."""

    __test__ = False

    @classmethod
    def source(cls):
        return Packs(cls.shape)


def given(like=TestCLIP, **options):
    return like.method(**options).double(), apart(like.batch())


def apart(batch: Batch) -> Batch:
    """All items of records of their own."""
    return replace(batch, record=torch.arange(batch.size))


class Told(CLIP):
    """Whose projected features are told: `told` holds those of images and texts (B, D)."""

    def _features(self, batch):
        image, text, weight = super()._features(batch)
        return replace(image, pooled=self.told[0]), replace(text, pooled=self.told[1]), weight


def told(images, texts, scale=0.0, weight=None):
    m = Told(TestCLIP.method().encoder, TestCLIP.source().specs, TestCLIP.method().options, unchanged).double()
    m.told = images.double(), texts.double()
    m.project_image = m.project_text = torch.nn.Identity()
    torch.nn.init.constant_(m.log_scale, scale)
    batch = apart(TestCLIP.batch())
    batch = replace(batch, weight=torch.ones(8) if weight is None else weight)
    x = batch.inputs["x"]
    batch = batch.with_inputs(x=replace(x, valid=torch.ones_like(x.valid)))
    return m, m.step(batch, CTX)


@pytest.mark.parametrize("t", [0.0, 1.5])
def test_orthonormal_pairs_that_agree(t):
    # cosines are 1 with the own text and 0 with the 7 others: log(e^s + 7) - s with s = e^t, in both directions
    _, out = told(3 * torch.eye(8), torch.eye(8), t)
    s = math.exp(t)
    assert abs(out["loss"].item() - (math.log(math.exp(s) + 7) - s)) < 1e-12
    assert out["parts"]["image_to_text"] == out["parts"]["text_to_image"]


def test_collapsed_pairs_cost_the_log_of_the_items():
    _, out = told(torch.ones(8, 3), -torch.ones(8, 3), 2.0)
    assert abs(out["loss"].item() - math.log(8)) < 1e-12
    # two items are left out, and are nobody's negatives
    _, out = told(torch.ones(8, 3), -torch.ones(8, 3), 2.0, torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1]))
    assert abs(out["loss"].item() - math.log(6)) < 1e-12


def test_it_is_symmetric_and_as_cross_entropy_says():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(8, 4, generator=g, dtype=torch.float64), torch.randn(8, 4, generator=g, dtype=torch.float64)
    (_, one), (_, other) = told(a, b, 1.0), told(b, a, 1.0)
    torch.testing.assert_close(one["loss"], other["loss"], rtol=0, atol=1e-12)
    assert (one["parts"]["image_to_text"] - one["parts"]["text_to_image"]).abs() > 1e-3
    normal = torch.nn.functional.normalize
    logits, own = math.e * normal(a) @ normal(b).T, torch.arange(8)
    entropy = torch.nn.functional.cross_entropy
    wanted = (entropy(logits, own) + entropy(logits.T, own)) / 2
    torch.testing.assert_close(one["loss"], wanted, rtol=0, atol=1e-12)


def test_the_temperature_learns():
    # d/ds of log(e^s + 7) - s is e^s / (e^s + 7) - 1 < 0 where pairs agree: the scale grows. Where every text is that of
    # another item it is 1 (the cosine met) * e^s / (e^s + 7) > 0: it falls. Times s = e^t, here 1, by the chain rule
    for texts, slope in ((torch.eye(8), math.e / (math.e + 7) - 1), (torch.eye(8).roll(1, 0), math.e / (math.e + 7))):
        m, out = told(torch.eye(8), texts)
        out["loss"].backward()
        assert abs(m.log_scale.grad.item() - slope) < 1e-12


def test_the_temperature_begins_and_ends_where_the_paper_says():
    m = TestCLIP.method()
    assert abs(m.log_scale.exp().item() - 1 / 0.07) < 1e-4
    m.after_step(CTX)
    assert abs(m.log_scale.exp().item() - 1 / 0.07) < 1e-4
    torch.nn.init.constant_(m.log_scale, 7.0)
    m.after_step(CTX)
    assert abs(m.log_scale.exp().item() - 100) < 1e-3


def test_items_of_one_record_share_its_text():
    # records 0 0 1 1 1 1 1 1: each of the first two meets itself and the 6 others, each of the rest itself and 2
    m, _ = told(torch.ones(8, 3), torch.ones(8, 3))
    batch = replace(TestCLIP.batch(), weight=torch.ones(8), record=torch.tensor([0, 0, 1, 1, 1, 1, 1, 1]))
    batch = batch.with_inputs(x=replace(batch.inputs["x"], valid=torch.ones_like(batch.inputs["x"].valid)))
    assert abs(m.step(batch, CTX)["loss"].item() - (2 * math.log(7) + 6 * math.log(3)) / 8) < 1e-12


# texts


def on_rank(kind):
    m, batch = given({"packed": Packed9, "dense": TestCLIP}[kind])
    return step_and_gradients(m, share(without_text(batch)), CTX)


def without_text(batch, row=4, ids=None):
    """Of one item nothing of the text is valid; `ids`: what stands there."""
    text = batch.inputs["text"]
    if isinstance(text, Packed):
        at = text.owner == row
        values = text.values if ids is None else torch.where(at[:, None], ids, text.values)
        return batch.with_inputs(text=replace(text, values=values, valid=text.valid & ~at))
    valid, values = text.valid.clone(), text.values.clone()
    valid[row] = False
    if ids is not None:
        values[row] = ids
    return batch.with_inputs(text=replace(text, valid=valid, values=values, whole=False))


@pytest.mark.parametrize("kind", ["packed", "dense"])
def test_two_ranks_equal_one_where_a_text_is_missing(two_ranks, kind):
    alone = on_rank(kind)
    assert {"grad log_scale", "grad project_text.weight", "grad project_image.weight"} <= set(alone)
    assert any(name.startswith("grad text_encoder") for name in alone)
    assert_same(two_ranks.run(f"{__file__}:on_rank", kind), alone, tolerance=1e-9)


@pytest.mark.parametrize("like", [Packed9, TestCLIP])
def test_an_item_without_a_text_takes_no_part(like):
    batch = given(like)[1]
    gone = replace(batch, weight=batch.weight * (torch.arange(8) != 4))
    there, wanted = (step_and_gradients(given(like)[0], b, CTX) for b in (batch, gone))
    assert (there["loss"] - wanted["loss"]).abs() > 1e-4
    for ids in (None, 1.0, torch.nan):
        assert_same([step_and_gradients(given(like)[0], without_text(batch, ids=ids), CTX)], wanted, tolerance=1e-12)


def test_padding_of_a_text_changes_nothing():
    # of every second text the last id is padding: another number there, more of it, or none at all because it is packed
    m, batch = given()
    wanted = m.step(batch, CTX)["loss"]
    text = batch.inputs["text"]
    other = replace(text, values=torch.where(text.valid, text.values, 5.0))
    longer = Dense(
        torch.nn.functional.pad(text.values, (0, 9), value=3.0),
        torch.nn.functional.pad(text.valid, (0, 9)),
        text.spacing,
    )
    packed = Packed9.batch().inputs["text"]
    assert packed.offsets.diff().tolist() == [5, 4] * (BATCH // 2)
    for changed in (other, longer):
        torch.testing.assert_close(m.step(batch.with_inputs(text=changed), CTX)["loss"], wanted, rtol=0, atol=1e-12)
    # a patch of a grid has its centre at 0.5, a packed token stands at 0: only where no place is read are they the same
    options = TestCLIP.options | {"text_encoder": TOWER | {"vocabulary": (9,), "positions": "none"}}
    placeless, plain = (given(k, **options)[0] for k in (Packed9, TestCLIP))
    placeless.load_state_dict(plain.state_dict())
    found = placeless.step(batch.with_inputs(text=packed), CTX)["loss"]
    torch.testing.assert_close(found, plain.step(batch, CTX)["loss"], rtol=0, atol=1e-9)


# what is read, and by whom


def test_the_image_encoder_reads_images_only():
    specs = TestCLIP.source().specs
    options = validated(CLIP.Options, TestCLIP.options, "method")
    assert list(CLIP.encodes(specs, options)) == ["x"]
    m, batch = given()
    assert list(m.encoder.specs) == ["x"] and list(m.text_encoder.specs) == ["text"] and m.exported is m.encoder
    out = m.step(batch, CTX)
    torch.testing.assert_close(out["embedding"], m.encoder({"x": batch.inputs["x"]}).pooled, rtol=0, atol=0)
    with pytest.raises(RequestError, match=r"method\.text: 'txet' is unknown, did you mean 'text'"):
        CLIP.encodes(specs, options.model_copy(update={"text": "txet"}))
    with pytest.raises(RequestError, match=r"method\.text: 'x' is the only input"):
        CLIP.encodes({"x": specs["x"]}, options.model_copy(update={"text": "x"}))


def test_a_text_needs_a_vocabulary():
    with pytest.raises(RequestError, match=r"method\.text_encoder\.vocabulary: a text holds ids"):
        TestCLIP.method(text_encoder=TOWER | {"vocabulary": ()})
    assert TestCLIP.method(text_encoder=TOWER).text_encoder.vocabulary == {"text": (257,)}


def test_given_weights_of_the_text_stay_where_they_are_frozen():
    with pytest.raises(RequestError, match="freeze_text keeps the weights that text_start names"):
        TestCLIP.method(freeze_text=True)
    m = TestCLIP.method(text_start="given", freeze_text=True).double()
    free = TestCLIP.method(text_start="given").double()
    theirs = TokenEncoder(m.text_encoder.specs, m.text_encoder.options.model_copy(update={"depth": 2})).double()
    for method in (m, free):
        method.take_text(theirs)
        assert method.text_encoder is theirs
        method.zero_grad()
        method.step(apart(TestCLIP.batch()), CTX)["loss"].backward()
        assert method.project_text.weight.grad.norm() > 0
        assert all((p.grad is None) == (method is m) for p in theirs.parameters())
    wide = TokenEncoder(m.text_encoder.specs, m.text_encoder.options.model_copy(update={"width": 32}))
    specs = TestCLIP.source().specs
    for wrong in (wide, ConvNet({"x": specs["x"]}, ConvNet.Options())):
        with pytest.raises(Incompatible, match=r"method\.text_start: these weights are of another encoder"):
            m.take_text(wrong)


# it learns


def zero_shot(images, texts):
    """The class (B,) whose text's embedding (K, D) is nearest to an image's (B, D)."""
    return (torch.nn.functional.normalize(images) @ torch.nn.functional.normalize(texts).T).argmax(1)


WORDS = ("ground", "left", "right", "both")


def pictures(first, count):
    """Synthetic: an 8 x 8 image of noise whose halves are lit or not, and the word for it, as bytes."""
    samples = []
    for i in range(first, first + count):
        draw, kind = streams.rng(0, "picture", i), i % 4
        data = 0.3 * draw.standard_normal((1, 8, 8))
        data[..., :4] += kind & 1
        data[..., 4:] += kind >> 1
        x = Input(data.astype("float32"), ("grey",), ("",), spacing=(1.0, 1.0))
        samples.append(Sample({"x": x, "text": text_input(WORDS[kind])}, f"{i}", f"{i}", index=i, record=i))
    specs = {
        "x": InputSpec.of(samples[0].inputs["x"], axes=("y", "x")),
        "text": InputSpec.of(samples[0].inputs["text"], axes=("token",)),
    }
    return specs, Collate(specs)(samples), torch.arange(first, first + count) % 4


@pytest.mark.slow
def test_it_learns_which_word_an_image_shows():
    specs, batch, _ = pictures(0, 64)
    torch.manual_seed(0)
    encoder = TokenEncoder({"x": specs["x"]}, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(4, 4)))
    m = CLIP(encoder, specs, CLIP.Options(text_encoder=TOWER, width=16))
    optimiser = torch.optim.AdamW(m.parameters(), lr=5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        m.step(m.on_batch(batch, CTX), CTX)["loss"].backward()
        optimiser.step()
        m.after_step(CTX)
    # images not seen before, named by the four words: a quarter would be chance
    _, unseen, kinds = pictures(64, 64)
    _, words, _ = pictures(0, 4)
    with torch.no_grad():
        images = m.project_image(m.encoder({"x": unseen.inputs["x"]}).pooled)
        texts = m.project_text(m.text_encoder({"text": words.inputs["text"]}).pooled)
    assert (zero_shot(images, texts) == kinds).double().mean() > 0.9
