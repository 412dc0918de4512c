"""I-JEPA: its contract and oracles."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.methods.ijepa import IJEPA
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.targets.features import layer_normed
from unlabeled.core.testing.events import EVENTS, with_events
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients

PREDICTOR = {"width": 16, "depth": 1, "heads": 2}


class TestIJEPA(MethodContract):
    name = "ijepa"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (2, 2)})
    options = {"predictor": PREDICTOR, "teacher": {"momentum": 0.9}}


class TestIJEPASignals(MethodContract):
    name = "ijepa"
    shape = (48,)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4,), "cls": True})
    options = {"predictor": PREDICTOR, "targets": 2}


def given(**options):
    m = TestIJEPA.method(**options).double()
    return m, m.on_batch(TestIJEPA.batch(), CTX)


def test_context_and_targets_are_disjoint_and_counted():
    _, cut = given()
    blocks = cut.blocks["x"]
    # 64 tokens: a context of at most 32, four blocks of at most int(0.2 * 64) = 12
    assert blocks.context.shape == (8, 32) and blocks.targets.shape == (8, 4, 12)
    context = torch.zeros(8, 64).scatter_add(1, blocks.context, blocks.context_valid.float())
    targets = torch.zeros(8, 64).scatter_add(1, blocks.targets.flatten(1), blocks.targets_valid.flatten(1).float())
    assert (context * targets == 0).all()
    there = cut.weight > 0
    assert (context.sum(1)[there] > 0).all() and (targets.sum(1)[there] > 0).all()


def constant(m, value):
    """The method with a predictor that says `value` everywhere."""
    torch.nn.init.zeros_(m.predictor.heads["x"].weight), torch.nn.init.constant_(m.predictor.heads["x"].bias, value)
    return m


def test_the_loss_is_smooth_l1_to_the_teachers_normed_features_of_the_whole_item():
    # by hand: e^2 / 2 below 1, |e| - 1/2 above, mean over all tokens of all blocks
    m, cut = given()
    m = constant(m, 0.25)
    with torch.no_grad():
        whole = layer_normed(m.teacher["encoder"].encode(cut.tokens).tokens)
    blocks, costs = cut.blocks["x"], []
    for b in range(8):
        for t in range(4):
            for i, real in zip(blocks.targets[b, t], blocks.targets_valid[b, t], strict=True):
                if real and cut.weight[b] > 0:
                    e = (0.25 - whole[b, i]).abs()
                    costs.append(torch.where(e < 1, e**2 / 2, e - 0.5))
    loss = m.step(cut, CTX)["loss"]
    torch.testing.assert_close(loss, torch.stack(costs).mean(), rtol=1e-12, atol=0)


def test_prediction_equal_to_the_target_costs_nothing():
    # a teacher whose last norm says the same of every token, a predictor that says it too
    m, cut = given()
    say = torch.linspace(-1, 1, 16, dtype=torch.float64)
    norm = m.teacher["encoder"].transformer.norm
    torch.nn.init.zeros_(norm.weight), norm.bias.data.copy_(say)
    m = constant(m, 0.0)
    m.predictor.heads["x"].bias.data.copy_(layer_normed(say))
    out = m.step(cut, CTX)
    assert out["loss"] < 1e-24
    # and that is collapse: the targets' deviation is sqrt(1e-6)
    assert out["vitals"]["target_std"].item() == pytest.approx(1e-3, rel=1e-6)


def test_blocks_do_not_see_each_other():
    # the prediction of a block is the one it gets when it is the only block
    m, cut = given()
    together = m._predicted(cut)["x"].unflatten(0, (8, 4))
    for t in range(4):
        alone = TestIJEPA.method(targets=1).double()
        alone.load_state_dict(m.state_dict())
        blocks = cut.blocks["x"]
        one = replace(blocks, targets=blocks.targets[:, t : t + 1], targets_valid=blocks.targets_valid[:, t : t + 1])
        found = alone._predicted(replace(cut, blocks={"x": one}))["x"]
        torch.testing.assert_close(found, together[:, t], rtol=0, atol=1e-12)


def test_target_pixels_reach_the_context_by_no_way():
    m, cut = given()
    t, targets = cut.tokens["x"], cut.blocks["x"].targets.flatten(1)
    at = targets[..., None].expand(-1, -1, t.patches.shape[-1])
    there = cut.blocks["x"].targets_valid.flatten(1)[..., None]
    patches = t.patches.scatter(1, at, torch.where(there, 5.0, t.patches.gather(1, at)))
    other = replace(cut, tokens={"x": replace(t, patches=patches)})
    assert torch.equal(m._predicted(cut)["x"], m._predicted(other)["x"])
    assert m.step(cut, CTX)["loss"] != m.step(other, CTX)["loss"]


@pytest.mark.parametrize("momentum", [0.0, 1.0])
def test_momentum_1_freezes_the_teacher_and_0_makes_it_the_student(momentum):
    m, cut = given(teacher={"momentum": momentum, "final_momentum": momentum})
    before = {k: v.clone() for k, v in m.teacher.state_dict().items()}
    m.step(cut, CTX)["loss"].backward()
    assert all(p.grad is None for p in m.teacher.parameters())
    with torch.no_grad():
        for p in m.encoder.parameters():
            p.sub_(0.1 * p.grad)
    m.after_step(CTX)
    expected = before if momentum else {f"parts.encoder.{k}": v for k, v in m.encoder.state_dict().items()}
    torch.testing.assert_close(dict(m.teacher.state_dict()), expected, rtol=0, atol=1e-15)
    assert (m.step(cut, CTX)["vitals"]["teacher_gap"] > 0) == bool(momentum)


def test_the_bundle_carries_the_teacher():
    m, cut = given()
    assert m.exported is m.teacher["encoder"]
    assert torch.equal(m.step(cut, CTX)["embedding"], m.exported.encode(cut.tokens).pooled)


def test_it_learns():
    m = TestIJEPA.method(teacher={"momentum": 1.0}).float()  # targets stand still
    batch = TestIJEPA.batch()
    x = batch.inputs["x"]
    batch = batch.with_inputs(x=replace(x, values=x.values.float(), spacing=x.spacing.float()))
    losses = descent(m, batch, 40)
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def two_inputs():
    return with_events(TestIJEPA.batch(), [9, 5, 0, 2, 12, 0, 8, 4])


def both():
    torch.manual_seed(0)
    specs = {"x": TestIJEPA.method().specs["x"], "events": EVENTS}
    options = TokenEncoder.Options(width=16, depth=1, heads=2, patch={"x": (4, 4)})
    return IJEPA(TokenEncoder(specs, options), specs, IJEPA.Options(predictor=PREDICTOR)).double()


def on_rank():
    return step_and_gradients(both(), share(two_inputs()), CTX)


def test_several_inputs_also_packed_on_two_ranks(two_ranks):
    # the ranks' packs have unequal lengths, 9 and 12, so their tensors of blocks differ in size
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)
    m = both()
    out = m.step(m.on_batch(two_inputs(), CTX), CTX)
    torch.testing.assert_close(out["loss"], (out["parts"]["smooth_l1_x"] + out["parts"]["smooth_l1_events"]) / 2)
    out["loss"].backward()
    assert all(p.grad.isfinite().all() for p in m.parameters() if p.grad is not None)


def test_options_that_do_not_fit_are_refused():
    specs = TestIJEPA.method().specs
    with pytest.raises(RequestError, match="method ijepa: needs a token encoder, got ConvNet"):
        IJEPA(ConvNet(specs, ConvNet.Options()), specs, IJEPA.Options())
    for options, message in (
        ({"target_scale": (0.2, 0.1)}, "target_scale.*smaller one first"),
        ({"context_scale": (0.5, 1.5)}, "context_scale.*ends at 1"),
        ({"target_aspect": (0.0, 1.5)}, "target_aspect.*above 0"),
    ):
        with pytest.raises(RequestError, match=message):
            validated(IJEPA.Options, options, "method")
