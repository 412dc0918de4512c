"""CroCo: its contract and oracles."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.build import seeded
from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.methods.base import unchanged
from unlabeled.core.methods.croco import CroCo
from unlabeled.core.methods.mae import MAE
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.method import CTX, Grids, MethodContract
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients

DECODER = {"width": 16, "depth": 1, "heads": 2}


class TestCroCo(MethodContract):
    name = "croco"
    shape = (16, 16)
    encoder = ("tokens", {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4)})
    options = {"decoder": DECODER}


class TestCroCoV2(MethodContract):
    name = "croco"
    shape = (8, 8, 8)
    encoder = ("tokens", {"width": 16, "depth": 1, "heads": 2, "patch": (4, 4, 4), "positions": "rope", "cls": True})
    options = {"decoder": DECODER | {"positions": "rope"}, "mask_ratio": 0.75}


def given(**options):
    m = TestCroCo.method(**options).double()
    return m, m.on_batch(TestCroCo.batch(), CTX)


def noise(like, seed=0):
    return torch.randn(like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(seed))


def with_reference(pair, change):
    return replace(pair, reference={n: replace(t, patches=change(t.patches)) for n, t in pair.reference.items()})


def test_nine_tenths_are_hidden_and_the_reference_is_whole():
    # int(0.9 * 16) = 14 hidden, 2 stay; of 196 it is 176, so that 20 stay, where MAE's rounding would leave 19
    _, pair = given()
    assert pair.hidden["x"].valid[0].sum() == 14 and pair.visible["x"].valid[0].sum() == 2
    assert pair.reference["x"].valid[0].sum() == 16
    specs = Grids((56, 56)).specs
    encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(4, 4)))
    values = torch.zeros(1, 2, 56, 56)
    x = Dense(values, torch.ones(1, 1, 56, 56, dtype=torch.bool), torch.ones(1, 2), whole=True)
    one = torch.arange(1)
    batch = replace(TestCroCo.batch(), inputs={"x": x}, index=one, record=one, group=one, weight=torch.ones(1))
    pair = CroCo(encoder, specs, CroCo.Options()).on_batch(batch, CTX)
    assert [t.patches.shape[1] for t in (pair.visible["x"], pair.hidden["x"], pair.reference["x"])] == [20, 176, 196]


def test_without_cross_weights_it_is_mae():
    # on the view and the mask that CroCo drew
    m, pair = given()
    plain = MAE(m.encoder, m.specs, MAE.Options(decoder=DECODER)).double()
    missing, unexpected = m.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and all("cross" in n or "norm_query" in n or "norm_reference" in n for n in missing)
    wanted = plain.step(pair, CTX)["loss"]
    assert abs(m.step(pair, CTX)["loss"] - wanted) > 1e-4
    torch.nn.init.zeros_(m.predictor.transformer.blocks[0].cross.proj.weight)
    torch.testing.assert_close(m.step(pair, CTX)["loss"], wanted, rtol=0, atol=1e-12)


def reference_gradient(m, pair):
    """Of the loss, in the patches of the reference and in those that are visible."""
    seen = [t["x"].patches.clone().requires_grad_() for t in (pair.reference, pair.visible)]
    shown = replace(
        pair,
        reference={"x": replace(pair.reference["x"], patches=seen[0])},
        visible={"x": replace(pair.visible["x"], patches=seen[1])},
    )
    return torch.autograd.grad(m.step(shown, CTX)["loss"], seen, materialize_grads=True)


def test_gradient_reaches_the_encoder_through_both_views():
    m, pair = given()
    through_reference, through_view = reference_gradient(m, pair)
    counted = pair.weight > 0
    assert (through_view[counted].abs().sum((1, 2)) > 0).all()
    assert (through_reference[counted].abs().sum(2)[pair.reference["x"].valid[counted]] > 0).all()
    torch.nn.init.zeros_(m.predictor.transformer.blocks[0].cross.proj.weight)
    through_reference, through_view = reference_gradient(m, pair)
    assert (through_reference == 0).all() and (through_view != 0).any()


def test_a_learned_completion_reads_the_reference():
    # items of one grey each, and nothing visible: only the reference knows the grey. Without it the best is the variance
    # of the greys, 1 here; noise in its place costs as much again as another item's would
    torch.manual_seed(0)
    m = TestCroCo.method(norm_target=False, decoder=DECODER | {"width": 32})
    m.views = unchanged
    grey = torch.tensor([-1.5, -1.0, -0.5, -0.2, 0.2, 0.5, 1.0, 1.5])
    grey = (grey / grey.square().mean().sqrt()).view(8, 1, 1, 1).expand(8, 2, 16, 16)
    batch = replace(TestCroCo.batch(), weight=torch.ones(8))
    batch = batch.with_inputs(x=Dense(grey, torch.ones(8, 1, 16, 16, dtype=torch.bool), torch.ones(8, 2)))
    pair = m.on_batch(batch, CTX)
    pair = replace(pair, visible={"x": replace(pair.visible["x"], patches=torch.zeros_like(pair.visible["x"].patches))})
    optimiser = torch.optim.AdamW(m.parameters(), lr=5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        loss = m.step(pair, CTX)["loss"]
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        known, spoiled = (m.step(p, CTX)["loss"].item() for p in (pair, with_reference(pair, noise)))
    assert known < 0.1 and spoiled > 0.7


def test_views_differ_and_the_mask_is_of_the_first():
    m, pair = given()
    whole = torch.cat([pair.visible["x"].patches, pair.hidden["x"].patches], 1)
    assert not torch.allclose(whole.sum((1, 2))[0], pair.reference["x"].patches.sum((1, 2))[0])
    m.views = unchanged
    pair = m.on_batch(TestCroCo.batch(), CTX)
    whole = torch.cat([pair.visible["x"].patches, pair.hidden["x"].patches], 1)
    torch.testing.assert_close(whole.sum((1, 2)), pair.reference["x"].patches.sum((1, 2)))


def test_the_completed_view_can_be_drawn():
    m, _ = given()
    drawn = m.reconstruct(TestCroCo.batch(), CTX)
    assert set(drawn) == {"x.original", "x.masked", "x.predicted"}
    # 14 of 16 patches of 16 cells and 2 channels are hidden, and all of them drawn
    assert drawn["x.masked"][0].isnan().sum() == 14 * 32 and drawn["x.predicted"][0].isfinite().all()


# another input as the reference


def two_specs():
    (spec,) = Grids((16, 16)).specs.values()
    return {"x": spec, "later": InputSpec(channels=("c",), units=("",), axes=("y", "x"), unit="px", spacing=(1.0, 1.0))}


def two_inputs(reference="later", **options):
    with seeded(0, "two"):
        specs = two_specs()
        encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(4, 4)))
        return CroCo(encoder, specs, CroCo.Options(reference=reference, decoder=DECODER, **options)).double()


def two_dates():
    """Items with a second acquisition of one channel, whose fifth row is missing."""
    batch = TestCroCo.batch()
    values = noise(torch.zeros(8, 1, 16, 16, dtype=torch.float64))
    valid = torch.ones(8, 1, 16, 16, dtype=torch.bool)
    valid[4] = False
    return batch.with_inputs(later=Dense(values, valid, batch.inputs["x"].spacing))


def on_rank():
    return step_and_gradients(two_inputs(), share(two_dates()), CTX)


def test_the_reference_may_be_another_input(two_ranks):
    m, batch = two_inputs(), two_dates()
    pair = m.on_batch(batch, CTX)
    assert set(pair.hidden) == {"x"} and pair.visible["later"].patches.shape[1] == 0
    assert pair.reference["x"].patches.shape[1] == 0 and pair.reference["later"].valid.sum(1).tolist()[:5] == [
        16
    ] * 4 + [0]
    out = m.step(pair, CTX)
    assert set(out["parts"]) == {"mse_x"} and out["loss"] == out["parts"]["mse_x"]
    out["loss"].backward()
    # both projections learn, and nothing is left without a gradient
    assert all(p.grad is not None and p.grad.norm() > 0 for p in m.parameters())
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)


def test_whole_inputs_need_no_masks_of_attention():
    # known on the host that everything is valid: the same loss without a look at validity
    m, batch = two_inputs(), two_dates()
    batch = replace(batch, weight=torch.ones(8))
    inputs = {n: replace(x, valid=torch.ones_like(x.valid)) for n, x in batch.inputs.items()}
    whole = {n: replace(x, whole=True) for n, x in inputs.items()}
    looked, known = (m.on_batch(batch.with_inputs(**x), CTX) for x in (inputs, whole))
    assert known.reference["x"].whole and known.visible["later"].whole and known.hidden["x"].whole
    torch.testing.assert_close(m.step(known, CTX)["loss"], m.step(looked, CTX)["loss"], rtol=0, atol=1e-12)


def test_an_item_without_a_reference_is_completed_as_in_mae():
    # of item 4 the second acquisition is missing: what stands there is not read, and no cross-attention reaches it
    m, batch = two_inputs(), two_dates()
    pair = m.on_batch(replace(batch, weight=torch.arange(8) == 4), CTX)
    wanted = m.step(pair, CTX)["loss"]
    torch.nn.init.zeros_(m.predictor.transformer.blocks[0].cross.proj.weight)
    torch.testing.assert_close(m.step(pair, CTX)["loss"], wanted, rtol=0, atol=1e-12)


def test_wrong_references_are_refused():
    specs = TestCroCo.method().specs
    encoder = TestCroCo.method().encoder
    with pytest.raises(RequestError, match=r"method\.reference: 'veiw' is unknown, did you mean 'view'"):
        CroCo(encoder, specs, CroCo.Options(reference="veiw"))
    with pytest.raises(RequestError, match=r"method\.reference: 'x' is unknown"):  # the only input cannot help itself
        CroCo(encoder, specs, CroCo.Options(reference="x"))
    with pytest.raises(RequestError, match="method croco: needs a token encoder, got ConvNet"):
        CroCo(ConvNet(specs, ConvNet.Options()), specs, CroCo.Options())
    with pytest.raises(RequestError, match=r"2 axes need an even number of at least 4 channels a head, and .* has 2"):
        CroCo(encoder, specs, CroCo.Options(decoder={"width": 8, "heads": 4, "positions": "rope"}))
