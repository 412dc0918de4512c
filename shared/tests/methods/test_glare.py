"""GLARE: its contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.build import Chain
from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.losses.distillation import regression
from unlabeled.core.methods.base import unchanged
from unlabeled.core.methods.glare import GLARE
from unlabeled.core.nn.adapter import adapters
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.learning import descent, stripes
from unlabeled.core.testing.method import CTX, Grids, MethodContract, noisy

ENCODER = {"width": 16, "depth": 2, "heads": 2, "adapter": 4}
SMALL = {"prototypes": 12, "projector": (12, 8), "warmup_steps": 10, "freeze_steps": 2, "moving": 0, "regions": 3}
# the teacher is as sharp as the student, and nothing is blurred
PLAIN = {"student_temperature": 0.1, "first_temperature": 0.1, "teacher_temperature": 0.1, "blur": 0.0, "noise": 0.0}


class TestGLARE(MethodContract):
    name = "glare"
    encoder = ("tokens", ENCODER | {"patch": (4,), "cls": True, "pool": "cls"})
    options = SMALL


class TestGLAREImages(MethodContract):
    name = "glare"
    shape = (16, 16)
    encoder = ("tokens", ENCODER | {"patch": (4, 4), "positions": "rope"})
    options = SMALL | {"local_crops": 1, "teacher": {"momentum": 0.9}}
    local_views = True


def given(like=TestGLAREImages, views=noisy, shaken=False, **options):
    m = like.method(**options).double()
    m.views = views
    if shaken:
        shake(m, (m.encoder,))
    return m, m.on_batch(like.batch(), CTX)


@torch.no_grad()
def shake(m, modules=None):
    """Adapters that do something: of the student, of the teacher, or of both alike."""
    g = torch.Generator().manual_seed(0)
    for pair in zip(*(adapters(e) for e in modules or (m.encoder, m._slow[0])), strict=True):
        for ps in zip(*(a.parameters() for a in pair), strict=True):
            noise = torch.randn(ps[0].shape, dtype=ps[0].dtype, generator=g)
            for p in ps:
                p.add_(0.3 * noise)


# what is trained


def test_it_begins_as_the_given_encoder_to_the_bit():
    m = TestGLAREImages.method()
    plain = TokenEncoder(m.specs, m.encoder.options.model_copy(update={"adapter": 0}))
    missing, unexpected = m.encoder.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all(".adapter." in name for name in missing) and len(missing) == 2 * 4
    inputs = {"x": replace(TestGLAREImages.batch().inputs["x"])}
    inputs["x"] = replace(inputs["x"], values=inputs["x"].values.float())
    for encoder in (m.encoder, m._slow[0]):
        found, wanted = encoder(inputs), plain(inputs)
        assert torch.equal(found.tokens, wanted.tokens) and torch.equal(found.pooled, wanted.pooled)
    shake(m, (m.encoder,))
    assert not torch.equal(m.encoder(inputs).tokens, plain(inputs).tokens)


def test_only_adapters_and_the_head_learn():
    m, batch = given(shaken=True)
    m.step(batch, replace(CTX, step=5))["loss"].backward()
    learned = {name for name, p in m.named_parameters() if p.grad is not None}
    assert learned == {n for n, p in m.named_parameters() if p.requires_grad}
    inside = {f"encoder.{n}" for n, _ in m.encoder.named_parameters() if ".adapter." in n}
    assert {n for n in learned if n.startswith("encoder")} == inside and len(inside) == 8
    assert {n.partition(".")[0] for n in learned} == {"encoder", "head"}
    assert all(p.grad.norm() > 0 for n, p in m.named_parameters() if n in learned and ".adapter." in n)


def test_adapters_of_a_small_vit_are_few():
    # 2 * 384 * 32 weights and 384 + 32 biases in each of 12 blocks: 299,904 of about 21.6 million, 1.4 %
    spec = InputSpec(channels=("r", "g", "b"), units=("",) * 3, axes=("y", "x"), spacing=(1.0, 1.0))
    options = TokenEncoder.Options(width=384, depth=12, heads=6, patch=(16, 16), cls=True, adapter=32)
    with torch.device("meta"):
        m = GLARE(TokenEncoder({"x": spec}, options), {"x": spec}, GLARE.Options(**SMALL))
    count = {wanted: sum(p.numel() for p in m.encoder.parameters() if p.requires_grad or wanted) for wanted in (0, 1)}
    assert count[0] == 12 * (2 * 384 * 32 + 384 + 32) and count[0] < 0.05 * count[1]


def test_the_slow_copy_shares_what_is_frozen():
    m, _ = given()
    slow = dict(m._slow[0].named_parameters())
    for name, p in m.encoder.named_parameters():
        assert (slow[name] is p) == (".adapter." not in name)
        assert slow[name].dtype == torch.float64 and slow[name].requires_grad is False
    # nothing is saved twice: the encoder's, the teacher's adapters and heads, the centre
    names = [n for n in m.state_dict() if not n.startswith("encoder.")]
    assert {n.partition(".")[0] for n in names} == {"head", "teacher", "center"}
    assert sum(n.startswith("teacher.parts.adapters") for n in names) == 8
    assert m.exported is m.encoder and m.exported.options.adapter == 4


def test_the_slow_copy_follows():
    m, batch = given()
    m.step(batch, CTX)
    before = [p.clone() for p in adapters(m._slow[0]).parameters()]
    frozen = [p.clone() for p in m.encoder.parameters() if not p.requires_grad]
    with torch.no_grad():
        for p in adapters(m.encoder).parameters():
            p.add_(1)
    m.after_step(replace(CTX, step=0))
    # m = .9 at the first step: a tenth of the way, which was 1
    moved = zip(adapters(m._slow[0]).parameters(), before, strict=True)
    assert all((after - first - 0.1).abs().max() < 1e-12 for after, first in moved)
    assert all(map(torch.equal, frozen, (p for p in m.encoder.parameters() if not p.requires_grad)))


# the terms


def test_equal_views_are_at_the_minimum():
    # the teacher is the student, and nothing is changed: cosines of 1, and a cross-entropy that is the teacher's entropy
    m, batch = given(views=unchanged, local_crops=0, **PLAIN)
    shake(m)
    parts = m.step(batch, CTX)["parts"]
    assert parts["local"].abs() < 1e-12 and parts["regional"].abs() < 1e-12
    x = {"x": TestGLAREImages.batch().inputs["x"]}
    shares = (m.head(m.encoder(x).pooled) / 0.1).softmax(1)
    entropy = -(shares * shares.log()).sum(1)
    counts = batch.weight > 0
    assert abs(parts["global"] - entropy[counts].mean()) < 1e-12
    # and with noise on the views no term is
    m.views = noisy
    worse = m.step(m.on_batch(TestGLAREImages.batch(), CTX), CTX)["parts"]
    assert worse["global"] > parts["global"] and worse["regional"] > 1e-3 and worse["local"].abs() < 1e-12
    # with noise on patches alone the local term shows it
    m, batch = given(views=unchanged, local_crops=0, **PLAIN | {"noise": 0.5})
    assert m.step(batch, CTX)["parts"]["local"] > 1e-3


def test_the_local_term_is_that_of_the_changed_patches():
    m, batch = given(shaken=True)
    seen, whole = m.encoder.encode(batch.worse).tokens, m._slow[0].encode(batch.tokens).tokens
    at = batch.chosen & (batch.weight.repeat(2) > 0)[:, None]
    torch.testing.assert_close(
        m.step(batch, CTX)["parts"]["local"], regression(seen[at], whole[at]).detach(), rtol=0, atol=1e-12
    )
    # about half of the valid patches are changed, and none of the others
    valid = batch.tokens["x"].valid
    same = (batch.worse["x"].patches == batch.tokens["x"].patches).all(-1)
    assert torch.equal(same, ~batch.chosen) and 0.3 < batch.chosen.sum() / valid.sum() < 0.7
    assert not (batch.chosen & ~valid).any()
    # the views have draws of their own
    one, two = batch.chosen.chunk(2)
    assert not torch.equal(one, two)


def test_the_regional_term_compares_regions_between_the_views():
    m, batch = given(shaken=True)
    seen, whole = m.encoder.encode(batch.worse).tokens, m._slow[0].encode(batch.tokens, attention=True)
    regions, there = m._regions(batch, whole)
    assert regions.shape == (8, 16, 3) and there[batch.weight > 0].all() and not there[batch.weight == 0].any()
    terms = []
    for b in torch.nonzero(batch.weight)[:, 0]:
        for r in range(3):
            near = regions[b, :, r]
            for own, other in ((b, 8 + b), (8 + b, b)):
                pair = seen[own][near].mean(0), whole.tokens[other][near].mean(0)
                terms.append(2 - 2 * torch.nn.functional.cosine_similarity(*pair, dim=0))
    wanted = torch.stack(terms).mean().detach()
    torch.testing.assert_close(m.step(batch, CTX)["parts"]["regional"], wanted, rtol=0, atol=1e-12)
    # a square of 3 x 3 patches, cut at the border, of a grid of 4 x 4
    assert set(regions[0].sum(0).tolist()) <= {4, 6, 9}


def test_weights_of_the_terms():
    parts, loss = (given(item=2.0, patches=0.5, areas=0.0)[0].step(given()[1], CTX)[k] for k in ("parts", "loss"))
    assert math.isclose(loss.item(), 2 * parts["global"].item() + 0.5 * parts["local"].item(), rel_tol=1e-12)


# views


def roll(x, draw):
    """Moves cells, by one to three places along the last axis."""
    by = (1 + 3 * draw.uniform("by", 1)).long()[:, :, None, None].expand(*x.values.shape[:-1], 1)
    at = (torch.arange(x.values.shape[-1]) + by) % x.values.shape[-1]
    return replace(x, values=x.values.gather(-1, at.expand_as(x.values)))


def louder(x, draw):
    """Moves nothing."""
    return replace(x, values=x.values * (1 + draw.uniform("by", 1, 1, 1)))


def test_views_that_move_cells_are_shared():
    views = Chain((("0-roll", "x", roll), ("1-louder", "x", louder)))
    batch = TestGLAREImages.batch()

    def drawn(moving):
        m = GLARE(TestGLAREImages.method().encoder, batch_specs(), GLARE.Options(**SMALL | {"moving": moving}), views)
        return [v.inputs["x"].values for v in m._views(batch, CTX)]

    one, two = drawn(1)
    ratio = (one / two).flatten(1)
    # the same cells everywhere, another loudness for each item and view
    assert (ratio - ratio[:, :1]).abs().max() < 1e-9 and (ratio[:, 0] - 1).abs().min() > 1e-3
    apart = (drawn(0)[0] / drawn(0)[1]).flatten(1)
    assert ((apart - apart[:, :1]).abs().amax(1) > 0.1).any()
    one, two = drawn(2)
    assert torch.equal(one, two)


def batch_specs():
    return Grids((16, 16)).specs


def test_wrong_requests():
    specs, m = batch_specs(), TestGLAREImages.method()
    options = m.encoder.options.model_copy(update={"adapter": 0})
    with pytest.raises(
        RequestError, match=r"method glare: trains adapters only, and the encoder has none; set encoder\.adapter: 16"
    ):
        GLARE(TokenEncoder(specs, options), specs, GLARE.Options(**SMALL))
    with pytest.raises(RequestError, match="needs a token encoder, got ConvNet"):
        GLARE(ConvNet(specs, ConvNet.Options()), specs, GLARE.Options(**SMALL))
    with pytest.raises(RequestError, match=r"method\.moving: these views cannot be cut in two"):
        GLARE(m.encoder, specs, GLARE.Options(**SMALL | {"moving": 1}), noisy)


def test_it_learns_to_overlook_what_is_done_to_patches():
    # the adapters alone bring the features of blurred and noisy patches to those of whole ones, which stand still
    batch = stripes()
    specs = batch_specs()
    torch.manual_seed(0)
    encoder = TokenEncoder(specs, TokenEncoder.Options(**ENCODER, patch=(4, 4)))
    m = GLARE(encoder, specs, GLARE.Options(**SMALL | {"noise": 0.5, "item": 0.0, "areas": 0.0}))
    losses = descent(m, batch, 60)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
