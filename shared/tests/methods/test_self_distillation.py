"""Self-distilled further pretraining: its contract and oracles."""

import pytest
import torch

from unlabeled.core.build import seeded
from unlabeled.core.contracts import Incompatible, RequestError
from unlabeled.core.methods.mae import MAE
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.method import CTX, MethodContract

DECODER = {"width": 16, "depth": 1, "heads": 2}


def teacher(like, seed=7, **options):
    with seeded(seed, "teacher"):
        return TokenEncoder(like.encoder.specs, like.encoder.options.model_copy(update=options))


class TestSelfDistillation(MethodContract):
    name = "self_distillation"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"decoder": DECODER, "teacher": "bundle"}

    @classmethod
    def method(cls, **options):
        made = super().method(**options)
        made.take_teacher(teacher(made))
        return made


def given(**options):
    m = TestSelfDistillation.method(**options).double()
    return m, m.on_batch(TestSelfDistillation.batch(), CTX)


def test_the_loss_is_maes_and_the_distance_of_whole_items():
    m, cut = given(weight=0.5)
    out = m.step(cut, CTX)
    alone = MAE.step(m, cut, CTX)
    torch.testing.assert_close(out["parts"]["mse_x"], alone["loss"], rtol=0, atol=1e-12)
    # the whole item, as the encoder sees it with nothing hidden: sum over the width, mean over the 6 rows of weight 1
    whole = m.encoder.tokenise(
        m.views(TestSelfDistillation.batch(), CTX.draw(TestSelfDistillation.batch(), "view")).inputs
    )
    apart = m.encoder.encode(whole).pooled - m.teacher.encode(whole).pooled
    expected = apart.square().sum(1)[cut.weight > 0].sum() / 6
    torch.testing.assert_close(out["parts"]["distance"], expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(out["loss"], alone["loss"] + 0.5 * expected, rtol=1e-10, atol=0)


def test_a_student_that_is_its_teacher_is_at_no_distance():
    m, cut = given()
    m.teacher.load_state_dict(m.encoder.state_dict())
    out = m.step(cut, CTX)
    assert out["parts"]["distance"] < 1e-24
    torch.testing.assert_close(out["loss"], MAE.step(m, cut, CTX)["loss"], rtol=0, atol=1e-12)


def test_the_teacher_stands_still():
    m, cut = given()
    before = {k: v.clone() for k, v in m.teacher.state_dict().items()}
    m.step(cut, CTX)["loss"].backward()
    m.after_step(CTX)
    assert all(p.grad is None and not p.requires_grad for p in m.teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in m.teacher.state_dict().items())
    assert m.exported is m.encoder


def test_without_a_teacher_the_first_step_says_so():
    m = super(TestSelfDistillation, TestSelfDistillation).method().double()
    cut = m.on_batch(TestSelfDistillation.batch(), CTX)
    with pytest.raises(RequestError, match=r"there is no teacher; name its weights in method\.teacher"):
        m.step(cut, CTX)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"width": 8}, "positions or width differ .* encoder options of the teacher's bundle"),
        ({"position_scale": {"x": (1.0, 1.0)}}, "positions or width differ .* encoder options of the teacher's bundle"),
        ({"patch": {"x": (2, 2)}}, r"its patches are .*\(2, 2\).* give the recipe the encoder\.patch of the teacher"),
    ],
)
def test_a_teacher_of_another_kind_is_refused(options, sentence):
    m, _ = given()
    with pytest.raises(Incompatible, match=sentence):
        m.take_teacher(teacher(m, **options))
    with pytest.raises(Incompatible, match="it is a ConvNet and has no tokens"):
        m.take_teacher(ConvNet(m.encoder.specs, ConvNet.Options()))
