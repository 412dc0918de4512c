"""MaskAlign: its contract and oracles."""

import pytest
import torch

from unlabeled.core.build import seeded
from unlabeled.core.contracts import Incompatible, RequestError
from unlabeled.core.methods.masking import Drawn
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.streams import Draw
from unlabeled.core.targets.features import layer_normed
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.tokens.masks import random_mask


def teacher(like, seed=7, **options):
    with seeded(seed, "teacher"):
        return TokenEncoder(like.encoder.specs, like.encoder.options.model_copy(update=options))


class TestMaskAlign(MethodContract):
    name = "maskalign"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"teacher": "bundle"}

    @classmethod
    def method(cls, **options):
        made = super().method(**options)
        made.take_teacher(teacher(made, width=24, depth=3, cls=True))
        return made


class TestMaskAlignAtRandom(MethodContract):
    name = "maskalign"
    options = {"teacher": "bundle", "mask": "random", "top": 1}

    @classmethod
    def method(cls, **options):
        made = super().method(**options)
        made.take_teacher(teacher(made))
        return made


def given(**options):
    m = TestMaskAlign.method(**options).double()
    return m, m.on_batch(TestMaskAlign.batch(), CTX)


def alone(m):
    """The encoder without attention: what a token becomes depends on no other token, seen or not."""
    for block in m.transformer.blocks:
        torch.nn.init.zeros_(block.attn.proj.weight), torch.nn.init.zeros_(block.attn.proj.bias)


def test_a_student_that_is_its_teacher_costs_nothing():
    # tokens for themselves, identity heads, and a mix of the last layer alone: the student's is LN(x) at once, with an eps of
    # 10^-6 where the target has 10^-5, so that they differ by 10^-5 of themselves and the loss by 10^-10
    m, drawn = given(top=1)
    alone(m.encoder)
    m.take_teacher(teacher(m))
    m.teacher.load_state_dict(m.encoder.state_dict())
    m.double()
    with torch.no_grad():
        m.mixing.copy_(torch.tensor([[0.0, 1.0]]))
        torch.nn.init.eye_(m.heads[0].weight), torch.nn.init.zeros_(m.heads[0].bias)
    assert m.step(drawn, CTX)["loss"] < 1e-9
    # and a prediction that is off by 1/2 everywhere costs 2 * (1/2)^2 / 2
    torch.nn.init.constant_(m.heads[0].bias, 0.5)
    torch.testing.assert_close(m.step(drawn, CTX)["loss"].item(), 0.25, rtol=0, atol=1e-4)


def test_the_mix_starts_as_the_mean_of_the_students_layers():
    m, drawn = given()
    # 3 layers of the teacher from 2 of the student
    assert m.mixing.shape == (3, 2) and (m.mixing == 0.5).all()
    whole = m.teacher.encode(drawn.tokens, states=True, attention=True)
    masks = m._masks(drawn, whole)
    seen = m.encoder.encode({"x": masks["x"].visible(drawn.tokens["x"])}, states=True)
    mean = (seen.states[0] + seen.tokens) / 2
    total = count = 0
    for b in range(8):
        for k, at in enumerate(masks["x"].keep[b].tolist()):
            if drawn.weight[b] and masks["x"].keep_valid[b, k]:
                for head, state in zip(m.heads, whole.states, strict=True):
                    e = (head(mean[b, k]) - layer_normed(state[b, at])).abs()
                    total = total + 2 * torch.where(e < 1, e.square() / 2, e - 0.5).mean()
                count += 1
    # 16 tokens at .7 keep int(4.8) = 4, 8 keep int(2.4) = 2: 5 items and one half
    assert count == 22
    torch.testing.assert_close(m.step(drawn, CTX)["loss"], total / count / 3, rtol=1e-10, atol=0)


@pytest.mark.parametrize("cls", [True, False])
def test_tokens_are_kept_by_the_teachers_attention(cls):
    # over 400 draws, a token is the first of one item as often as its share of the attention: 5 deviations of sqrt(400 / 4)
    m, drawn = given()
    m.take_teacher(teacher(m, cls=cls))
    m.double()
    with torch.no_grad():  # sharper than at the start
        m.teacher.transformer.blocks[-1].attn.qkv.weight.mul_(4)
    one = drawn.tokens["x"]._each(lambda x: x[:1].expand(400, *x.shape[1:]))
    many = Draw(0, 0, torch.arange(400)).uniform("x", 16)
    whole = m.teacher.encode({"x": one}, attention=True)
    mask = m._masks(Drawn({"x": one}, {"x": many}, torch.ones(400)), whole)["x"]
    share = whole.attention[0] / whole.attention[0].sum()
    counts = torch.bincount(mask.keep[:, 0], minlength=16) / 400
    assert share.max() > 2 * share.min() and (counts - share).abs().max() < 0.125


def test_a_random_mask_is_that_of_the_noise():
    m, drawn = given(mask="random")
    mask = m._masks(drawn, m.teacher.encode(drawn.tokens))["x"]
    plain = random_mask(drawn.tokens["x"].valid, 0.7, drawn.noise["x"])
    assert torch.equal(mask.keep, plain.keep) and torch.equal(mask.hide, plain.hide)


def test_the_student_sees_the_kept_tokens_only_and_the_teacher_all():
    m, drawn = given(mask="random")
    t = drawn.tokens["x"]
    mask = m._masks(drawn, m.teacher.encode(drawn.tokens))["x"]
    before = m.step(drawn, CTX)
    t.patches[0, mask.hide[0]] += 1
    after = m.step(drawn, CTX)
    assert torch.equal(after["embedding"], before["embedding"]) and after["loss"] != before["loss"]


def test_every_parameter_of_the_student_learns():
    m, drawn = given()
    m.step(drawn, CTX)["loss"].backward()
    for name, p in m.named_parameters():
        if not name.startswith("teacher"):
            # the key's bias moves no softmax
            assert p.grad is not None and (p.grad.norm() > 0 or name.endswith("qkv.bias")), name
        else:
            assert p.grad is None and not p.requires_grad


def test_what_does_not_fit_is_refused():
    m, _ = given()
    with pytest.raises(Incompatible, match=r"its patches are"):
        m.take_teacher(teacher(m, patch={"x": (2, 8)}))
    with pytest.raises(Incompatible, match=r"method\.top is 4 but the teacher has 3 blocks"):
        TestMaskAlign.method(top=4)
    bare = super(TestMaskAlign, TestMaskAlign).method().double()
    with pytest.raises(RequestError, match="method maskalign: there is no teacher"):
        bare.step(bare.on_batch(TestMaskAlign.batch(), CTX), CTX)
    flat = TokenEncoder(m.encoder.specs, m.encoder.options.model_copy(update={"depth": 0}))
    with pytest.raises(RequestError, match=r"no blocks whose features could be aligned; set encoder\.depth"):
        type(m)(flat, m.specs, m.options)


def test_it_learns():
    m = TestMaskAlign.method()
    batch = TestMaskAlign.batch()
    x = batch.inputs["x"]
    batch = batch.with_inputs(x=type(x)(x.values.float(), x.valid, x.spacing.float()))
    losses = descent(m, batch, 60, lr=3e-3, redraw=False)
    # a target of variance 1; 22 tokens of one mask are soon known
    assert losses[0] > 0.5 and losses[-1] < 0.3 * losses[0]
