"""CNN-JEPA: its masks, its student, its loss and its teacher, and the contract in one and two dimensions."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.batch import Batch, Dense
from unlabeled.core.methods.cnn_jepa import CNNJEPA
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.learning import descent, stripes
from unlabeled.core.testing.method import CTX, MethodContract

NET = {"channels": (6, 8), "kernels": (5, 3), "strides": (2, 2)}


class TestCNNJEPA(MethodContract):
    name = "cnn_jepa"
    encoder = ("convnet", NET)
    shape = (16, 16)


class TestCNNJEPASignal(MethodContract):
    name = "cnn_jepa"
    encoder = ("convnet", NET)
    options = {"blocks": 0, "predictor": {"depth": 1, "kernel": 5}, "teacher": {"momentum": 0.9}}


class TestCNNJEPATimm(MethodContract):
    name = "cnn_jepa"
    encoder = ("timm", {"model": "test_byobnet", "stages": 2})
    options = {"blocks": 1}
    shape = (16, 32)


def images(b=4, size=28):
    return torch.randn(b, 2, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def batch_of(x):
    ids = torch.arange(len(x))
    valid = torch.ones(len(x), 1, *x.shape[2:], dtype=torch.bool)
    return Batch({"x": Dense(x, valid, torch.ones(len(x), 2))}, ids, ids, ids, torch.ones(len(x)), {})


def given(kind=TestCNNJEPA, b=4, **options):
    m = kind.method(**options).double()
    return m, m.on_batch(batch_of(images(b)), CTX)


def test_hidden_blocks_are_the_complement_of_what_is_seen():
    # 28 / 4 = 7 sites along each axis. A block has 49 * (0.15 to 0.2) = 7.35 to 9.8 cells, which become 2 x 4 = 8, 3 x 3,
    # 3 x 2 = 6 and their like, so that one to four of them hide 6 to 39 of 49, and never a last cell that was seen
    _, cut = given(b=200, blocks=1)
    sites = cut.active.reshape(200, 7, 4, 7, 4)
    assert torch.equal(sites.any(4).any(2), sites.all(4).all(2))
    seen = sites.any(4).any(2)
    assert torch.equal(~seen.flatten(1), cut.hidden)
    count = cut.hidden.sum(1)
    assert count.min() >= 6 and count.max() <= 39 and 18 < count.double().mean() < 30
    # every row and column is hidden in some item: the last ones too
    assert cut.hidden.reshape(200, 7, 7).any(0).all()


def test_the_share_of_block_masks():
    # of random masks round(49 * 0.4) = 20 sites are seen, 29 hidden
    assert given(b=50, blocks=0)[1].hidden.sum(1).tolist() == [29] * 50
    # of 400 items three quarters have blocks: 300 with a deviation of sqrt(400 * 3 / 16) = 8.7
    either, blocks, patches = (given(b=400, blocks=share)[1].hidden for share in (0.75, 1, 0))
    of_blocks = (either == blocks).all(1)
    assert ((either == patches).all(1) | of_blocks).all()
    assert 270 < of_blocks.sum() < 330


def test_an_item_without_context_has_a_random_mask():
    # one block of the whole grid leaves nothing to see
    options = {"blocks": 1, "targets": 1, "target_scale": (1.0, 1.0), "target_aspect": (1.0, 1.0)}
    assert given(**options)[1].hidden.sum(1).tolist() == [29] * 4


@pytest.mark.parametrize("kind", [TestCNNJEPA, TestCNNJEPATimm])
def test_hidden_pixels_reach_the_student_by_no_way(kind):
    m, cut = given(kind)
    found = []
    m.predictor.register_forward_hook(lambda module, args, out: found.append((args[0].values.detach(), out.detach())))
    plain = m.step(cut, CTX)
    spoiled = torch.where(cut.active.unsqueeze(1), cut.x.values, cut.x.values + 1e3)
    other = m.step(replace(cut, x=replace(cut.x, values=spoiled)), CTX)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    # the teacher sees them
    assert plain["loss"] != other["loss"] and not torch.equal(plain["embedding"], other["embedding"])
    # where nothing is seen the student's map is 0, and elsewhere it is not
    hidden = cut.hidden.reshape(-1, 1, *found[0][0].shape[2:])
    assert (found[0][0].masked_select(hidden) == 0).all()
    assert (found[0][0].abs().amax(1, keepdim=True).masked_select(~hidden) > 0).all()


@pytest.mark.parametrize("kind", [TestCNNJEPA, TestCNNJEPATimm])
def test_a_student_that_sees_all_is_the_dense_net(kind):
    m, cut = given(kind)
    seen = []
    m.predictor.register_forward_hook(lambda module, args, out: seen.append(args[0].values))
    m.step(replace(cut, active=torch.ones_like(cut.active), hidden=torch.ones_like(cut.hidden)), CTX)
    dense = m.encoder.maps({"x": cut.x})[-1].values
    torch.testing.assert_close(seen[0], dense, rtol=0, atol=1e-12)


def predicting(m, values):
    """The method with a predictor that says `values(map of the student)`."""
    m.predictor.forward = lambda seen, sites: values(seen.values)
    return m


def test_the_target_costs_nothing_and_its_length_does_not_count():
    m, cut = given()
    with torch.no_grad():
        target = m.teacher["encoder"].maps({"x": cut.x})[-1].values
    loss = predicting(m, lambda x: 3 * target).step(cut, CTX)["loss"]
    torch.testing.assert_close(loss, torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("angle", "wanted"), [(0.3, 1 - math.cos(0.3)), (math.pi / 2, 1.0), (math.pi, 1.5)])
def test_unit_vectors_cost_half_their_squared_distance(angle, wanted):
    # |p - h|^2 / 2 = 1 - cos while no channel differs by more than 1: at a right angle two channels differ by 1 and cost
    # 1/2 each; opposite ones differ by 2 in one channel, which costs 2 - 1/2
    def along(x, angle):
        out = torch.zeros_like(x)
        out[:, 0], out[:, 1] = 5 * math.cos(angle), 5 * math.sin(angle)
        return out

    m, cut = given()
    teacher = m.teacher["encoder"]
    maps = teacher.maps
    teacher.maps = lambda inputs: [replace(found, values=along(found.values, 0.0)) for found in maps(inputs)]
    loss = predicting(m, lambda x: along(x, angle)).step(cut, CTX)["loss"].item()
    assert math.isclose(loss, wanted, abs_tol=1e-12)


def test_only_hidden_sites_count():
    m, cut = given()
    pred = []
    m.predictor.register_forward_hook(lambda module, args, out: (out.retain_grad(), pred.append(out))[0])
    m.step(cut, CTX)["loss"].backward()
    grad = pred[0].grad.abs().sum(1).flatten(1)
    assert (grad[~cut.hidden] == 0).all() and (grad[cut.hidden] > 0).float().mean() > 0.9


@pytest.mark.parametrize(("momentum", "share"), [(1.0, 0.0), (0.0, 1.0)])
def test_the_teacher_follows(momentum, share):
    m, _ = given(teacher={"momentum": momentum, "final_momentum": momentum})
    before = [p.clone() for p in m.teacher.parameters()]
    with torch.no_grad():
        for p in m.encoder.parameters():
            p.add_(1)
    m.after_step(CTX)
    for was, now, student in zip(before, m.teacher.parameters(), m.encoder.parameters(), strict=True):
        torch.testing.assert_close(now, was + share * (student - was), rtol=0, atol=1e-12)
    assert m.exported is m.teacher["encoder"] and not any(p.requires_grad for p in m.exported.parameters())


def test_it_learns():
    # stripes of a random phase and a teacher that stays: what its maps are in hidden sites follows from the others
    m = TestCNNJEPA.method(teacher={"momentum": 1.0}).float()
    losses = descent(m, stripes(), 60)
    assert losses[-1] < 0.4 * losses[0]


def test_bfloat16_agrees_with_single():
    # bfloat16 has 8 bits; the loss itself is fp32
    m, cut = given()
    m, cut = m.float(), replace(cut, x=replace(cut.x, values=cut.x.values.float()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = m.step(cut, CTX)["loss"]
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, m.step(cut, CTX)["loss"], rtol=0.03, atol=0)


def test_an_encoder_without_maps_is_refused():
    specs = TestCNNJEPA.method().specs
    encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(4, 4)))
    with pytest.raises(RequestError, match="method cnn_jepa: needs a convolutional encoder, got TokenEncoder; set"):
        CNNJEPA(encoder, specs, CNNJEPA.Options())
