"""SAR-JEPA: its contract and oracles."""

import math
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from unlabeled.core.contracts import Constants, InputSpec, Normaliser, RequestError
from unlabeled.core.contracts.batch import Batch
from unlabeled.core.methods.base import Context
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.targets.ratio_gradient import ratio_gradient
from unlabeled.core.testing.method import CTX, MethodContract
from unlabeled.core.tokens.patches import patchify
from unlabeled.earth.methods.sar_jepa import SARJEPA, Local

DECODER = {"width": 16, "depth": 1, "heads": 2}


class TestSARJEPA(MethodContract):
    name = "sar_jepa"
    shape = (24, 24)
    encoder: ClassVar[tuple[str, dict[str, Any]]] = (
        "tokens",
        {"width": 16, "depth": 2, "heads": 2, "patch": (4, 4), "cls": True},
    )
    options: ClassVar[dict[str, Any]] = {"windows": 2, "window": 3, "radii": [2, 5], "decoder": DECODER}


def given(**options: Any) -> tuple[Any, Local]:
    """The contract's method and batch: 8 items, 6 x 6 tokens, 2 windows of 3 x 3; items 2 and 3 have weight 0."""
    m = TestSARJEPA.method(**options).double()
    return m, m.on_batch(TestSARJEPA.batch(), CTX)


def plain(m: Any) -> Any:
    """Without views, so that the test knows the image."""
    m.views = lambda batch, draw: batch
    return m


def spec(unit: str, *constants: tuple[float, float]) -> InputSpec:
    """Two bands in `unit`, with one (offset, scale) for each source."""
    known = {f"s{i}": Constants(offset=(o, o), scale=(s, s)) for i, (o, s) in enumerate(constants)}
    return InputSpec(
        channels=("VV", "VH"),
        units=(unit, unit),
        axes=("y", "x"),
        unit="m",
        spacing=(10.0, 10.0),
        normaliser=Normaliser(method="standard", constants=known) if known else Normaliser(),
    )


def built(s: InputSpec, **options: Any) -> SARJEPA:
    encoder = TokenEncoder({"x": s}, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(4, 4)))
    return SARJEPA(encoder, {"x": s}, SARJEPA.Options(**{**TestSARJEPA.options, **options}))


def image(batch: Batch, values: torch.Tensor) -> Batch:
    return batch.with_inputs(x=replace(batch.inputs["x"], values=values))


def test_the_loss_by_hand() -> None:
    # every prediction is 0.25: mean of (0.25 - target)^2 over the hidden tokens of valid windows of items that count, the
    # targets taken from the gradient of the whole image
    m, _ = given()
    batch = TestSARJEPA.batch()
    cut = plain(m).on_batch(batch, CTX)
    torch.nn.init.zeros_(m.heads["x"].weight), torch.nn.init.constant_(m.heads["x"].bias, 0.25)
    x = batch.inputs["x"]
    whole, valid = ratio_gradient(x.values, x.valid, (2, 5), eps=0.01)
    patches = patchify(whole, (4, 4)), patchify(valid, (4, 4))
    at = m._windows("x", m.encoder.tokenise(batch.inputs)["x"], CTX.draw(batch, "mask"))
    costs = []
    for b in range(8):
        for w in range(2):
            for token, hidden in zip(at.tokens[b, w], at.hidden[b, w], strict=True):
                if hidden and batch.weight[b] > 0:
                    costs.append((0.25 - patches[0][b, token]).square()[patches[1][b, token]])
    # items 2 and 3 have weight 0; 9 tokens of which int(7.2) = 7 are hidden
    assert at.hidden.sum((1, 2)).tolist()[0] == 14 and len(costs) == 6 * 14
    loss = m.step(cut, CTX)["loss"]
    torch.testing.assert_close(loss, torch.cat(costs).mean(), rtol=1e-12, atol=0)


def test_hidden_pixels_reach_the_encoder_by_no_way() -> None:
    m, cut = given()
    t, hidden = cut.tokens["x"], cut.hidden["x"][..., None]
    other = replace(cut, tokens={"x": replace(t, patches=torch.where(hidden, 7.0, t.patches))})
    assert torch.equal(m.step(cut, CTX)["loss"], m.step(other, CTX)["loss"])
    other = replace(cut, tokens={"x": replace(t, patches=torch.where(hidden, t.patches, 7.0))})
    assert not torch.equal(m.step(cut, CTX)["loss"], m.step(other, CTX)["loss"])


def test_only_hidden_tokens_are_predicted() -> None:
    m, cut = given()
    seen: list[torch.Tensor] = []
    m.decoder.register_forward_hook(lambda module, args, out: (out.retain_grad(), seen.append(out))[0])
    m.step(cut, CTX)["loss"].backward()
    assert seen[0].grad is not None
    got, hidden = seen[0].grad.abs().sum(-1) > 0, cut.hidden["x"]
    counts = (cut.weight > 0).repeat_interleave(2)[:, None] & cut.targets["x"].valid
    assert torch.equal(got, hidden & counts) and got.sum() > 70


def test_windows_do_not_see_each_other() -> None:
    # what a window gives is what it gives alone: of 2 rows per item, spoiling one changes nothing of the other
    m, cut = given()
    t = cut.tokens["x"]
    first = torch.arange(16)[:, None, None] % 2 == 0
    spoiled = replace(t, patches=torch.where(first, 3.0, t.patches))
    a, b = m.encoder.encode({"x": t}).tokens, m.encoder.encode({"x": spoiled}).tokens
    assert torch.equal(a[1::2], b[1::2]) and not torch.equal(a[0::2], b[0::2])


def test_the_target_knows_no_normaliser_and_no_scale() -> None:
    # power, power normalised as (p - 3) / 0.5, and 40 times the power: one target
    g = torch.Generator().manual_seed(0)
    power = 0.2 + torch.rand(8, 2, 24, 24, generator=g, dtype=torch.float64)
    batch = TestSARJEPA.batch()
    raw = built(spec("power")).on_batch(image(batch, power), CTX).targets["x"].patches
    normalised = built(spec("power", (3.0, 0.5), (3.0, 0.5)))
    found = normalised.on_batch(image(batch, (power - 3) / 0.5), CTX).targets["x"].patches
    torch.testing.assert_close(found, raw, rtol=0, atol=1e-12)
    found = built(spec("power")).on_batch(image(batch, 40 * power), CTX).targets["x"].patches
    torch.testing.assert_close(found, raw, rtol=0, atol=1e-12)
    # a sensor whose scale alone differs has the same ratios
    built(spec("power", (0.0, 0.5), (0.0, 2.0)))


def test_decibels_are_subtracted() -> None:
    # a step of 10 dB, normalised as (dB + 12) / 5: in ln(power) it is ln(10), of which r / (r + 1) remain at the edge
    m = built(spec("dB", (-12.0, 5.0)), radii=[2])
    db = torch.full((8, 2, 24, 24), -15.0, dtype=torch.float64)
    db[..., 12:] += 10
    batch = TestSARJEPA.batch()
    x = replace(batch.inputs["x"], values=(db + 12) / 5, valid=torch.ones(8, 1, 24, 24, dtype=torch.bool))
    target = m._gradient("x", x)
    expected = torch.full((24,), 2 / 3 * math.log(10), dtype=torch.float64)
    torch.testing.assert_close(target.values[0, 1, :, 12], expected, rtol=1e-12, atol=0)
    assert target.values[..., :9].abs().max() < 1e-12


def test_gradient_at_a_hole_is_no_target() -> None:
    m, batch = plain(given()[0]), TestSARJEPA.batch()
    valid = batch.inputs["x"].valid.clone()
    valid[0, :, 10, 10] = False
    cut = m.on_batch(batch.with_inputs(x=replace(batch.inputs["x"], valid=valid)), CTX)
    whole = m.on_batch(batch, CTX)
    # windows stay where they are; of item 0 no target of the (2 r + 1)^2 cells around the hole is left
    gone = whole.targets["x"].elements & ~cut.targets["x"].elements
    assert torch.equal(cut.hidden["x"], whole.hidden["x"]) and gone[:2].any() and not gone[2:].any()
    x = replace(batch.inputs["x"], valid=valid)
    left = m._gradient("x", x).valid[0]
    for i, r in enumerate((2, 5)):
        assert (~left[i]).sum() == (2 * r + 1) ** 2 and not left[i, 10 - r : 11 + r, 10 - r : 11 + r].any()


def test_two_inputs_have_windows_at_equal_places() -> None:
    specs = {"s1": spec("power"), "s2": spec("1")}
    encoder = TokenEncoder(specs, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(4, 4)))
    m = SARJEPA(encoder, specs, SARJEPA.Options(**TestSARJEPA.options)).double()
    batch = TestSARJEPA.batch()
    both = replace(batch, inputs={"s1": batch.inputs["x"], "s2": batch.inputs["x"]})
    cut = m.on_batch(both, CTX)
    assert torch.equal(cut.tokens["s1"].coords, cut.tokens["s2"].coords)
    assert not torch.equal(cut.hidden["s1"], cut.hidden["s2"])
    out = m.step(cut, CTX)
    torch.testing.assert_close(out["loss"], (out["parts"]["mse_s1"] + out["parts"]["mse_s2"]) / 2)
    assert out["embedding"].shape == (8, 16)


@pytest.mark.slow
def test_it_learns() -> None:
    m, batch = TestSARJEPA.method().float(), TestSARJEPA.batch()
    x = batch.inputs["x"]
    batch = batch.with_inputs(x=replace(x, values=x.values.float(), spacing=x.spacing.float()))
    optimiser = torch.optim.AdamW(m.parameters(), lr=1e-2)
    losses = []
    for epoch in range(40):
        ctx: Context = replace(CTX, epoch=epoch)
        loss = m.step(m.on_batch(batch, ctx), ctx)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_what_does_not_fit_is_refused() -> None:
    s = spec("power")
    with pytest.raises(RequestError, match="method sar_jepa: needs a token encoder, got ConvNet"):
        SARJEPA(ConvNet({"x": s}, ConvNet.Options()), {"x": s}, SARJEPA.Options())
    with pytest.raises(RequestError, match=r"method.window is 7 tokens and 'x' has 6 x 6; make it smaller"):
        built(s, window=7).on_batch(TestSARJEPA.batch(), CTX)
    with pytest.raises(RequestError, match="bands in dB and in power"):
        built(s.model_copy(update={"units": ("dB", "power")}))
    with pytest.raises(RequestError, match="the sources s0, s1 differently"):
        built(spec("power", (3.0, 0.5), (2.0, 0.5)))
    with pytest.raises(RequestError, match="the sources s0, s1 differently"):
        built(spec("dB", (0.0, 0.5), (0.0, 2.0)))
    with pytest.raises(RequestError, match="every radius is 1 or more"):
        built(s, radii=[0, 3])
    line = s.model_copy(update={"axes": ("time",), "spacing": (1.0,)})
    encoder = TokenEncoder({"x": line}, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(4,)))
    with pytest.raises(RequestError, match="'x' has the axes time; it works on images"):
        SARJEPA(encoder, {"x": line}, SARJEPA.Options())
