"""MR-MAE: its contract and oracles."""

import pytest
import torch

from unlabeled.core.build import seeded
from unlabeled.core.contracts import Incompatible, RequestError
from unlabeled.core.methods.mae import MAE
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.targets.features import layer_normed
from unlabeled.core.testing.method import CTX, MethodContract

DECODER = {"width": 16, "depth": 1, "heads": 2}


def teacher(like, seed=7, **options):
    with seeded(seed, "teacher"):
        return TokenEncoder(like.encoder.specs, like.encoder.options.model_copy(update=options))


class TestMRMAE(MethodContract):
    name = "mrmae"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"decoder": DECODER, "teacher": "bundle"}

    @classmethod
    def method(cls, **options):
        made = super().method(**options)
        made.take_teacher(teacher(made, width=24, depth=1))
        return made


def given(**options):
    m = TestMRMAE.method(**options).double()
    return m, m.on_batch(TestMRMAE.batch(), CTX)


def test_the_loss_is_maes_and_the_distance_at_the_visible_tokens():
    m, cut = given(weight=0.5)
    out = m.step(cut, CTX)
    alone = MAE.step(m, cut, CTX)
    torch.testing.assert_close(out["parts"]["mse_x"], alone["loss"], rtol=0, atol=1e-12)
    # by hand: the whole item, as the teacher sees it, read at the coordinates of the visible tokens
    whole = m.encoder.tokenise(m.views(TestMRMAE.batch(), CTX.draw(TestMRMAE.batch(), "view")).inputs)
    target = layer_normed(m.teacher.encode(whole).tokens)
    pred, visible = m.mimic(m.encoder.encode(cut.visible).tokens), cut.visible["x"]
    total = count = 0
    for b in range(8):
        for k in range(visible.valid.shape[1]):
            at = (whole["x"].coords[b] == visible.coords[b, k]).all(-1) & whole["x"].valid[b]
            if cut.weight[b] and visible.valid[b, k]:
                total, count = total + (pred[b, k] - target[b, at][0]).square().mean(), count + 1
    # 5 whole items with 4 visible tokens, and one of 8 valid tokens with 2
    assert count == 22
    torch.testing.assert_close(out["parts"]["mimic_x"], total / count, rtol=1e-10, atol=0)
    torch.testing.assert_close(out["loss"], alone["loss"] + 0.5 * total / count, rtol=1e-10, atol=0)


def test_a_constant_prediction_of_0_costs_1():
    # a layer-normed target has mean 0 and variance 1 over the width, less eps 10^-5 over the variance
    m, cut = given()
    torch.nn.init.zeros_(m.mimic.weight), torch.nn.init.zeros_(m.mimic.bias)
    torch.testing.assert_close(m.step(cut, CTX)["parts"]["mimic_x"].item(), 1.0, rtol=0, atol=1e-3)


def test_the_teacher_stands_still_and_its_features_need_the_hidden_tokens():
    m, cut = given()
    before = {k: v.clone() for k, v in m.teacher.state_dict().items()}
    out = m.step(cut, CTX)
    out["loss"].backward()
    m.after_step(CTX)
    assert all(p.grad is None and not p.requires_grad for p in m.teacher.parameters())
    assert all(torch.equal(v, before[k]) for k, v in m.teacher.state_dict().items())
    assert m.mimic.weight.grad.norm() > 0 and m.exported is m.encoder
    cut.hidden["x"].patches.add_(1)
    assert m.step(cut, CTX)["parts"]["mimic_x"] != out["parts"]["mimic_x"]


def test_the_heads_have_the_methods_seed_and_leave_torchs_stream_alone():
    torch.manual_seed(5)
    one = TestMRMAE.method()
    after = torch.rand(1)
    torch.manual_seed(6)
    assert torch.equal(TestMRMAE.method().mimic.weight, one.mimic.weight)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)


def test_without_a_teacher_the_first_step_says_so():
    m = super(TestMRMAE, TestMRMAE).method().double()
    with pytest.raises(RequestError, match=r"method mrmae: there is no teacher; name its weights in method\.teacher"):
        m.step(m.on_batch(TestMRMAE.batch(), CTX), CTX)


def test_a_teacher_of_other_tokens_is_refused():
    m, _ = given()
    with pytest.raises(
        Incompatible, match=r"its patches are \{'x': \(2, 8\)\}, the student's \{'x': \(4, 4\)\}"
    ) as error:
        m.take_teacher(teacher(m, patch={"x": (2, 8)}))
    assert "\n" not in str(error.value)
    with pytest.raises(Incompatible, match="it is a ConvNet and has no tokens"):
        m.take_teacher(ConvNet(m.encoder.specs, ConvNet.Options()))
    spec = m.encoder.specs["x"]
    with pytest.raises(Incompatible, match="its inputs are"):
        m.take_teacher(TokenEncoder({"y": spec}, TokenEncoder.Options(width=8, heads=2, depth=1, patch=(4, 4))))
    mono = spec.model_copy(update={"channels": ("a",), "units": ("",), "normaliser": None})
    with pytest.raises(Incompatible, match=r"its numbers in a patch are \{'x': 16\}, the student's \{'x': 32\}"):
        m.take_teacher(TokenEncoder({"x": mono}, TokenEncoder.Options(width=8, heads=2, depth=1, patch=(4, 4))))
