"""Hard patches mining: its contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from unlabeled.core.losses.ranking import pairwise_order
from unlabeled.core.methods.base import Context
from unlabeled.core.methods.hpm import HPM
from unlabeled.core.methods.mae import MAE
from unlabeled.core.testing.method import CTX, MethodContract

DECODER = {"width": 16, "depth": 1, "heads": 2}


class TestHPM(MethodContract):
    name = "hpm"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"decoder": DECODER, "first_share": 0.3, "last_share": 0.5}


def given(**options):
    m = TestHPM.method(**options).double()
    return m, TestHPM.batch()


def hidden_of(m, batch, ctx):
    drawn = m.on_batch(batch, ctx)
    return drawn, m._guided(drawn, ctx)["x"]


def viewed(m, batch):
    return m.views(batch, CTX.draw(batch, "view"))


def test_share_0_hides_what_mae_hides():
    m, batch = given(first_share=0, last_share=0)
    tokens, plain = MAE._masked(m, viewed(m, batch), CTX)
    drawn, mask = hidden_of(m, batch, CTX)
    assert torch.equal(mask.keep, plain["x"].keep) and torch.equal(mask.hide, plain["x"].hide)
    alone = MAE.step(m, m._cut(tokens, plain, batch.weight), CTX)
    torch.testing.assert_close(m.step(drawn, CTX)["parts"]["mse_x"], alone["loss"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("step", "count"), [(0, 0), (5, 3), (10, 6)])
def test_the_share_of_the_hardest_grows_linearly(step, count):
    # 16 tokens, 4 kept, 12 hidden; the share is .5 * step / 10 of them, rounded down: 0, 3 and 6
    m, batch = given(first_share=0.0, last_share=0.5)
    ctx = Context(seed=0, step=step, epoch=1, max_steps=11)
    drawn, mask = hidden_of(m, batch, ctx)
    expected = m.expected(drawn.tokens)["x"]
    whole = [b for b in range(8) if drawn.tokens["x"].valid[b].all()]
    random = MAE._masked(m, viewed(m, batch), ctx)[1]["x"]
    found = 0
    for b in whole:
        hardest = set(expected[b].argsort(descending=True)[:count].tolist())
        assert hardest <= set(mask.hide[b].tolist())
        found += hardest <= set(random.hide[b].tolist())
    # a random mask hides all of them by chance only: 3 of 16 in .39 of the rows, 6 in .12
    assert len(whole) == 5 and (count == 0 or found < 5)


def test_the_teacher_looks_at_the_whole_item():
    # its expectation of a token changes with any other token, kept or hidden
    m, batch = given()
    drawn = m.on_batch(batch, CTX)
    before = m.expected(drawn.tokens)["x"]
    t = drawn.tokens["x"]
    for token in range(16):
        patches = t.patches.clone()
        patches[:, token] += 1
        after = m.expected({"x": replace(t, patches=patches)})["x"]
        assert ((after - before)[0].abs() > 1e-9).all()


def test_what_the_order_is_learned_from():
    m, batch = given(weight=2.0)
    drawn = m.on_batch(batch, CTX)
    out = m.step(drawn, CTX)
    torch.testing.assert_close(out["loss"], out["parts"]["mse_x"] + 2 * out["parts"]["order_x"], rtol=0, atol=1e-12)
    # a loss predictor that says the same everywhere: ln 2
    torch.nn.init.zeros_(m.loss_predictor.heads["x"].weight)
    assert math.isclose(m.step(drawn, CTX)["parts"]["order_x"].item(), math.log(2), abs_tol=1e-12)


def test_the_order_teaches_the_loss_predictor_and_the_encoder_but_not_the_decoder():
    m, batch = given()
    drawn = m.on_batch(batch, CTX)
    seen = []
    m.loss_predictor.register_forward_hook(lambda module, args, out: seen.append(out["x"]))
    pred = []
    m.predictor.register_forward_hook(lambda module, args, out: pred.append(out["x"]))
    m.step(drawn, CTX)
    cut = m._cut(drawn.tokens, m._guided(drawn, CTX), drawn.weight)
    hidden = cut.hidden["x"]
    weight = hidden.valid * cut.weight[:, None]
    pairwise_order(seen[0][..., 0], m._errors(pred[0], hidden), weight).backward()
    assert all(p.grad is None for p in m.predictor.parameters())
    assert m.encoder.project["x"].weight.grad.norm() > 0
    assert all(p.grad is None for p in m.teacher.parameters())


def test_a_tokens_loss_is_its_mean_over_valid_elements():
    m, batch = given()
    cut = m._cut(*m._masked(batch, CTX), batch.weight)
    hidden = cut.hidden["x"]
    _, pred = m._predicted(cut)
    errors = m._errors(pred["x"], hidden)
    # their mean over the valid tokens of rows of weight 1 is MAE's loss, as every token has 32 or 0 valid elements
    counts = hidden.valid * batch.weight[:, None]
    torch.testing.assert_close((errors * counts).sum() / counts.sum(), m._loss(pred["x"], hidden, batch.weight))


def test_the_teacher_follows():
    # momentum .999 at the first step: a thousandth of the way
    m, _ = given()
    with torch.no_grad():
        for p in [*m.encoder.parameters(), *m.loss_predictor.parameters()]:
            p.add_(1.0)
    slow = [p.clone() for p in m.teacher.parameters()]
    m.after_step(Context(seed=0, step=0, epoch=0, max_steps=10))
    for before, after in zip(slow, m.teacher.parameters(), strict=True):
        torch.testing.assert_close(after - before, torch.full_like(after, 1e-3), rtol=0, atol=1e-12)


def test_pictures_show_the_guided_mask():
    m, batch = given(last_share=1.0, first_share=1.0)
    shown = m.reconstruct(batch, CTX)["x.masked"][0]
    _, mask = hidden_of(m, batch, CTX)
    gone = shown[0].isnan().reshape(4, 4, 4, 4).transpose(1, 2).reshape(16, 16).all(1)
    assert set(gone.nonzero().flatten().tolist()) == set(mask.hide[0].tolist())


def test_another_mask_is_refused():
    with pytest.raises(ValidationError, match="mask is not free"):
        HPM.Options(mask="block")


def halves(batch, rows=32):
    """Images of waves, one half of each (left, right, upper or lower) noise; and which of their 16 patches are noise."""
    g = torch.Generator().manual_seed(0)
    far = torch.arange(4) > 1
    sides = torch.stack([far.expand(4, 4), ~far.expand(4, 4), far.expand(4, 4).T, ~far.expand(4, 4).T])
    noisy = sides[torch.arange(rows) % 4]
    cells = noisy.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None]
    wave = torch.sin(torch.arange(16.0) * 1.1)
    values = torch.where(cells, 2 * torch.randn(rows, 2, 16, 16, generator=g), wave)
    x = replace(batch.inputs["x"], values=values, valid=torch.ones_like(cells), spacing=torch.ones(rows, 2))
    ids = torch.arange(rows)
    made = replace(batch, inputs={"x": x}, index=ids, record=ids, group=ids, weight=torch.ones(rows))
    return made, noisy.flatten(1)


def test_it_learns_which_patches_are_hard():
    m = TestHPM.method(norm_target=False, teacher={"momentum": 0.8, "final_momentum": 0.8})
    batch, noisy = halves(TestHPM.batch())
    optimiser = torch.optim.AdamW(m.parameters(), lr=3e-3)

    def right():
        """Share of the pairs of a noisy and a plain patch of an item that the teacher orders right."""
        found = m.expected(m.encoder.tokenise(batch.inputs))["x"]
        hard, easy = found[noisy].reshape(32, 8, 1), found[~noisy].reshape(32, 1, 8)
        return (hard > easy).float().mean().item()

    for step in range(60):
        ctx = Context(seed=0, step=step, epoch=step, max_steps=60)
        loss = m.step(m.on_batch(batch, ctx), ctx)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        m.after_step(ctx)
    # by chance 1/2
    assert right() > 0.8
