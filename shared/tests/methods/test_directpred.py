"""DirectPred."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.methods.base import unchanged
from unlabeled.core.methods.directpred import predictor
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.testing.ranks import assert_same, share


class TestDirectPred(MethodContract):
    name = "directpred"
    encoder = ("convnet", {"channels": (8, 12), "kernels": (5, 3), "strides": (2, 2)})
    options = {"projector": (12, 6)}


class TestDirectPredSimSiam(MethodContract):
    name = "directpred"
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4,)})
    options = {"projector": (12, 6), "teacher": None, "kind": "copy", "every": 2}


def made(like=TestDirectPred, **options):
    return like.method(**options).double()


def projected(m, batch=None):
    """Projections (12, D) of both views of the six items that count."""
    views = m.on_batch(batch or TestDirectPred.batch(), CTX)
    _, *z = m.project(views)
    return torch.cat([x[views[0].weight > 0] for x in z]).detach()


@pytest.mark.parametrize("kind", ["pred", "copy"])
def test_the_predictor_of_equal_eigenvalues_is_nearly_the_identity(kind):
    # sqrt(1) + .01 = 1 + .01, whatever the scale of F
    eye = torch.eye(5, dtype=torch.float64)
    for scale in (1.0, 7.0):
        torch.testing.assert_close(predictor(scale * eye, kind, 0.01), 1.01 * eye, rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["pred", "copy"])
def test_the_predictor_of_rank_one(kind):
    # one eigenvalue of 1 + eps along v, the others eps; a root turns rounding of 1e-17 into 1e-8
    v = torch.nn.functional.normalize(torch.arange(1.0, 6, dtype=torch.float64), dim=0)
    found = predictor(3 * v[:, None] * v, kind, 0.01)
    expected = v[:, None] * v + 0.01 * torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.linalg.eigvalsh(found)[-1].item(), 1.01, rtol=0, atol=1e-7)


def test_the_roots_of_the_eigenvalues_and_the_eigenvalues_themselves():
    # eigenvalues 4, 1 and 0: roots over the largest 1, .5, 0; copied 1, .25, 0; .1 more for each
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    f = turn @ torch.diag(torch.tensor([4.0, 1, 0], dtype=torch.float64)) @ turn.T
    for kind, values in (("pred", [1.1, 0.6, 0.1]), ("copy", [1.1, 0.35, 0.1])):
        expected = turn @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ turn.T
        torch.testing.assert_close(predictor(f, kind, 0.1), expected, rtol=0, atol=1e-7)
    # nothing seen yet: the direction of z is kept
    torch.testing.assert_close(predictor(0 * f, "pred", 0.1), 0.1 * torch.eye(3, dtype=torch.float64))


@pytest.mark.parametrize(("options", "expected"), [({}, 0), ({"teacher": None}, -1)])
def test_equal_views_and_the_identity_agree(options, expected):
    # BYOL: 2 - 2 cos = 0 twice, as the teacher is the student at the first step; SimSiam: -cos / 2 twice
    m = made(**options)
    assert torch.equal(m.predictor, torch.eye(6, dtype=torch.float64))
    assert m.step(m.on_batch(TestDirectPred.batch(), CTX), CTX)["loss"] > expected + 0.01
    m.views = unchanged
    loss = m.step(m.on_batch(TestDirectPred.batch(), CTX), CTX)["loss"].item()
    assert loss == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("teacher", [{"momentum": 0.9}, None])
def test_each_view_predicts_the_other(teacher):
    m = made(teacher=teacher).eval()
    with torch.no_grad():
        m.predictor.copy_(predictor(projected(m).T @ projected(m), "pred", 0.1))
        if teacher:
            for p in m.teacher.parameters():
                p.add_(0.1 * torch.randn_like(p))
    views = m.on_batch(TestDirectPred.batch(), CTX)
    there = views[0].weight > 0
    z = [m.projector(m.encoder(v.inputs).pooled)[there] for v in views]
    t = [m.teacher["projector"](m.teacher["encoder"](v.inputs).pooled)[there] for v in views] if teacher else z
    cosines = [torch.nn.functional.cosine_similarity(z[i] @ m.predictor, t[1 - i]).mean() for i in (0, 1)]
    expected = sum(2 - 2 * c for c in cosines) if teacher else -sum(cosines) / 2
    loss = m.step(views, CTX)["loss"]
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    loss.backward()
    assert not m.predictor.requires_grad and "predictor" not in dict(m.named_parameters())
    assert m.teacher is None or all(p.grad is None for p in m.teacher.parameters())


def test_the_correlation_is_a_moving_mean_over_the_rows_that_count():
    m = made().eval()
    z = projected(m)
    batches = [TestDirectPred.batch(), TestDirectPred.batch()]
    batches[1].weight[[0, 4]] = 0
    for batch in batches:
        m.step(m.on_batch(batch, CTX), CTX)
        m.after_step(replace(CTX, step=0))
    first = z.T @ z / 12
    kept = z[[1, 3, 4, 5, 7, 9, 10, 11]]  # without the first and the third of each view's six
    expected = 0.3 * first + 0.7 * kept.T @ kept / 8
    torch.testing.assert_close(m.correlation, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(m.predictor, predictor(expected, "pred", 0.01), rtol=0, atol=1e-9)


def test_a_batch_that_is_empty_or_not_finite_changes_nothing():
    m = made()
    m.step(m.on_batch(TestDirectPred.batch(), CTX), CTX)
    m.after_step(CTX)
    before = m.correlation.clone()
    empty = TestDirectPred.batch()
    empty.weight[:] = 0
    m.step(m.on_batch(empty, CTX), CTX)
    m.after_step(CTX)
    assert torch.equal(m.correlation, before)
    m._moment = torch.full((6, 6), torch.nan)
    m.after_step(CTX)
    assert torch.equal(m.correlation, before) and m.predictor.isfinite().all()


def test_the_predictor_is_set_every_few_steps():
    m = made(every=3)
    changed = []
    for step in range(5):
        before = m.predictor.clone()
        ctx = replace(CTX, step=step)
        m.step(m.on_batch(TestDirectPred.batch(), ctx), ctx)
        m.after_step(ctx)
        changed.append(not torch.equal(before, m.predictor))
    assert changed == [True, False, False, True, False]


def on_rank():
    """Loss and state after three steps, with unequal counts of rows."""
    m = made()
    losses = []
    for step in range(3):
        ctx = replace(CTX, step=step)
        losses.append(m.step(m.on_batch(share(TestDirectPred.batch()), ctx), ctx)["loss"].detach())
        m.after_step(ctx)
    return {"losses": torch.stack(losses), "F": m.correlation.clone(), "W": m.predictor.clone()}


def test_two_ranks_equal_one_after_some_steps(two_ranks):
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)


def test_it_learns_to_predict():
    # the descent leaves the teacher and the predictor, here the identity, where they are
    losses = descent(made(), TestDirectPred.batch(), 60)
    assert sum(losses[-10:]) < 0.85 * sum(losses[:10])
