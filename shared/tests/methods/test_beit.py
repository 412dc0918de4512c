"""BEiT: its contract with fixed and with learned codes, and its oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.build import seeded
from unlabeled.core.contracts import Incompatible, InputSpec, RequestError
from unlabeled.core.losses.masked import normalised_patches
from unlabeled.core.methods.beit import BEiT
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.targets.features import layer_normed
from unlabeled.core.testing.events import EVENTS, with_events
from unlabeled.core.testing.learning import descent, stripes
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients
from unlabeled.core.tokens.tokens import Tokens


def teacher(like, **options):
    with seeded(7, "teacher"):
        return TokenEncoder(like.encoder.specs, like.encoder.options.model_copy(update={"width": 24, **options}))


class TestBEiT(MethodContract):
    name = "beit"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"size": 32}


class TestBEiTTaught(MethodContract):
    """Codes that k-means learns from the features of a frozen, wider teacher."""

    name = "beit"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4, 4)})
    options = {"size": 8, "codebook": "kmeans", "teacher": "bundle", "mask": "random", "smoothing": 0.1}

    @classmethod
    def method(cls, **options):
        made = super().method(**options)
        made.take_teacher(teacher(made))
        return made


def given(kind=TestBEiT, **options):
    m = kind.method(**options).double()
    return m, m.on_batch(kind.batch(), CTX)


def said(m, logits):
    """The method with a head that puts out `logits` (K,) everywhere."""
    torch.nn.init.zeros_(m.heads["x"].weight)
    with torch.no_grad():
        m.heads["x"].bias.copy_(logits)
    return m


@pytest.mark.parametrize(("size", "expected"), [(8192, 9.0109133), (1024, 6.9314718), (32, 3.4657359)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_uniform_logits_cost_log_k(size, expected, smoothing):
    # whatever the codes are, and however they are smoothed: -log(1 / K)
    m, cut = given(size=size, smoothing=smoothing)
    loss = said(m, torch.full((size,), 0.3)).step(cut, CTX)["loss"].item()
    assert math.isclose(loss, expected, abs_tol=1e-7)


def test_a_sure_head_costs_nothing_where_it_is_right_and_its_margin_where_not():
    # all patches are one ramp, so all codes are one; a logit of 50 for it leaves 31 e^-50, and for another one 50 + that
    m, cut = given()
    t = cut.tokens["x"]
    ramp = torch.linspace(-1, 1, t.patches.shape[-1], dtype=torch.float64).expand_as(t.patches)
    elements = t.valid[..., None].expand_as(t.elements)
    cut = replace(cut, tokens={"x": Tokens.of(ramp, elements, t.coords, t.grid)})
    code = m.codebooks["x"].codes(normalised_patches(ramp[0, 0], None))
    sure = torch.zeros(32, dtype=torch.float64)
    sure[code] = 50
    assert said(m, sure).step(cut, CTX)["loss"] < 1e-19
    loss = said(m, sure.roll(1)).step(cut, CTX)["loss"].item()
    assert math.isclose(loss, 50, abs_tol=1e-12)


def codes_of(m, cut):
    return m.codebooks["x"].codes(m._described(cut)["x"])


def test_the_loss_by_hand():
    m, cut = given()
    pred = []
    m.heads["x"].register_forward_hook(lambda module, args, out: pred.append(out))
    loss = m.step(cut, CTX)["loss"]
    mask, rows = cut.masks["x"], cut.weight > 0
    counts = mask.hide_valid & rows[:, None]
    # 16 tokens, int(16 * 0.4) = 6 hidden in each whole item; the second is half invalid: int(8 * 0.4) = 3
    assert counts.sum(1).tolist() == [6, 3, 0, 0, 6, 6, 6, 6]
    expected = torch.nn.functional.cross_entropy(pred[0][counts], codes_of(m, cut)[counts])
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)


def test_only_hidden_patches_are_named():
    m, cut = given()
    seen = []
    m.encoder.transformer.register_forward_hook(lambda module, args, out: (out.retain_grad(), seen.append(out))[0])
    m.step(cut, CTX)["loss"].backward()
    mask = cut.masks["x"]
    hidden = torch.zeros(8, 16, dtype=torch.bool).scatter(1, mask.hide, mask.hide_valid) & (cut.weight > 0)[:, None]
    got = seen[0].grad.abs().sum(-1) > 0
    assert torch.equal(got, hidden)


@pytest.mark.parametrize("codebook", ["random", "kmeans", "cosine"])
@pytest.mark.parametrize("kind", [TestBEiT, TestBEiTTaught])
def test_codes_of_a_permuted_batch_are_permuted(kind, codebook):
    m, cut = given(kind, codebook=codebook)
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    shuffled = replace(
        cut,
        tokens={n: t._each(lambda x: x[order]) for n, t in cut.tokens.items()},
        masks={n: t._each(lambda x: x[order]) for n, t in cut.masks.items()},
        weight=cut.weight[order],
    )
    counts = cut.masks["x"].hide_valid
    assert torch.equal(codes_of(m, shuffled)[counts[order]], codes_of(m, cut)[order][counts[order]])
    assert len(codes_of(m, cut)[counts].unique()) > 3


def test_brightness_and_contrast_change_no_code():
    m, cut = given()
    t = cut.tokens["x"]
    other = replace(cut, tokens={"x": replace(t, patches=torch.where(t.elements, 3 * t.patches + 1, 0))})
    counts = cut.masks["x"].hide_valid
    # up to the 10^-6 under the root of the deviation
    assert torch.equal(codes_of(m, other)[counts], codes_of(m, cut)[counts])


def test_random_codes_are_those_of_every_run():
    one, other = (TestBEiT.method() for _ in range(2))
    torch.nn.init.normal_(other.mask_token)
    before = {n: b.clone() for n, b in one.codebooks.state_dict().items()}
    one.step(one.on_batch(TestBEiT.batch(), CTX), CTX)["loss"].backward()
    one.after_step(CTX)
    assert all(torch.equal(b, before[n]) for n, b in one.codebooks.state_dict().items())
    assert all(torch.equal(b, before[n]) for n, b in other.codebooks.state_dict().items())


@pytest.mark.parametrize("codebook", ["kmeans", "cosine"])
def test_learned_codes_learn_from_hidden_patches_after_the_step(codebook):
    m, cut = given(codebook=codebook, size=6)
    start = replace(CTX, step=0)
    entries = m.codebooks["x"].entries
    before = entries.clone()
    m.step(cut, start)
    assert torch.equal(entries, before)
    m.after_step(start)
    # 33 tokens count: 5 whole items with 6 and one with 3
    assert not torch.equal(entries, before) and m.codebooks["x"].use.sum().item() == pytest.approx(0.33)
    x, counts = m._described(cut)["x"], cut.masks["x"].hide_valid & (cut.weight > 0)[:, None]
    if codebook == "cosine":
        x = torch.nn.functional.normalize(x, dim=-1)
    far = [torch.cdist(x[counts], e).min(1).values.square().mean() for e in (before, entries)]
    assert far[1] < 0.8 * far[0]
    # nothing is left for the next step to learn twice
    held = entries.clone()
    m.after_step(replace(CTX, step=1))
    assert torch.equal(entries, held)


def test_a_batch_in_parts_teaches_the_codes_as_a_whole_one():
    found = []
    for n in (1, 2, 3):
        m = TestBEiT.method(codebook="kmeans", size=6).double()
        for part in TestBEiT.batch().parts(n):
            m.step(m.on_batch(part, CTX), replace(CTX, step=0))
        m.after_step(replace(CTX, step=0))
        found.append(dict(m.codebooks.named_buffers()))
    assert_same(found[1:], found[0], tolerance=1e-9)


def test_vitals_tell_a_collapsed_codebook():
    # all patches alike have one code: perplexity 1 of 32, 1 of 32 in use
    m, cut = given()
    t = cut.tokens["x"]
    even = replace(cut, tokens={"x": replace(t, patches=torch.zeros_like(t.patches))})
    vitals = m.step(even, CTX)["vitals"]
    assert vitals["prototype_use"].item() == vitals["codes_in_use"].item() == 1 / 32
    vitals = m.step(cut, CTX)["vitals"]
    assert 4 / 32 < vitals["prototype_use"] <= vitals["codes_in_use"] < 1


def test_the_teachers_features_are_coded_and_it_stands_still():
    m, cut = given(TestBEiTTaught)
    features = layer_normed(m.teacher.encode(cut.tokens).tokens).take_along_dim(cut.masks["x"].hide[..., None], 1)
    torch.testing.assert_close(m._described(cut)["x"], features, rtol=0, atol=0)
    before = {n: p.clone() for n, p in m.teacher.state_dict().items()}
    m.step(cut, CTX)["loss"].backward()
    m.after_step(CTX)
    assert all(p.grad is None and not p.requires_grad for p in m.teacher.parameters())
    assert all(torch.equal(p, before[n]) for n, p in m.teacher.state_dict().items())
    assert m.exported is m.encoder


def test_without_its_teacher_the_first_step_says_so():
    m = super(TestBEiTTaught, TestBEiTTaught).method().double()
    cut = m.on_batch(TestBEiT.batch(), CTX)
    with pytest.raises(RequestError, match=r"there is no teacher; name its weights in method\.teacher"):
        m.step(cut, CTX)


def test_a_teacher_with_other_patches_is_refused():
    m = TestBEiTTaught.method()
    for other, why in (
        (teacher(m, patch={"x": (2, 8)}), r"patches are .* give the recipe the encoder\.patch of the teacher"),
        (ConvNet(m.encoder.specs, ConvNet.Options()), "it is a ConvNet and has no tokens"),
    ):
        with pytest.raises(Incompatible, match=why):
            m.take_teacher(other)


def two_inputs():
    return with_events(TestBEiT.batch(), [9, 5, 0, 2, 1, 0, 3, 4])


def both(codebook):
    torch.manual_seed(0)
    specs = {"x": TestBEiT.method().specs["x"], "events": EVENTS}
    options = TokenEncoder.Options(width=16, depth=1, heads=2, patch={"x": (4, 4)})
    return BEiT(TokenEncoder(specs, options), specs, BEiT.Options(codebook=codebook, size=5)).double()


def on_rank(codebook):
    """Of a first step, which seeds the codes, and of a second."""
    m, found = both(codebook), {}
    for step in (0, 1):
        ctx = replace(CTX, step=step)
        m.zero_grad()
        found |= {f"{step} {n}": t for n, t in step_and_gradients(m, share(two_inputs()), ctx).items()}
        m.after_step(ctx)
    return found | {f"after {n}": b.clone() for n, b in m.named_buffers()}


@pytest.mark.parametrize("codebook", ["random", "kmeans", "cosine"])
def test_several_inputs_also_packed_on_two_ranks(two_ranks, codebook):
    m = both(codebook)
    out = m.step(m.on_batch(two_inputs(), CTX), CTX)
    torch.testing.assert_close(
        out["loss"], (out["parts"]["cross_entropy_x"] + out["parts"]["cross_entropy_events"]) / 2
    )
    assert_same(two_ranks.run(f"{__file__}:on_rank", codebook), on_rank(codebook), tolerance=1e-9)


@pytest.mark.slow
def test_it_learns():
    # stripes of a random phase: what is hidden follows from what is seen, so its code can be named; ln 16 = 2.77 by chance
    specs = {"x": InputSpec(channels=("a", "b"), units=("", ""), axes=("y", "x"), unit="px", spacing=(1.0, 1.0))}
    torch.manual_seed(0)
    encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=2, heads=2, patch={"x": (4, 4)}))
    m = BEiT(encoder, specs, BEiT.Options(size=16))
    losses = descent(m, stripes(), 120)
    assert losses[0] > 2.5 and losses[-1] < 0.5 * losses[0]


def test_an_encoder_without_tokens_is_refused():
    specs = TestBEiT.method().specs
    with pytest.raises(RequestError, match="needs a token encoder, got ConvNet"):
        BEiT(ConvNet(specs, ConvNet.Options()), specs, BEiT.Options())
