"""Masked tokens: their contract and oracles."""

import math
from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Batch, Dense, Packed
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.losses.ids import naming
from unlabeled.core.methods.base import unchanged
from unlabeled.core.methods.masked_tokens import MaskedTokens
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.events import pack
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, MethodContract, Words
from unlabeled.core.testing.ranks import assert_same, share, step_and_gradients
from unlabeled.core.tokens.replace import replaced

ENCODER = {"width": 16, "depth": 2, "heads": 2, "patch": (1,), "vocabulary": (7, 5)}
BYTES = InputSpec(channels=("high", "low"), units=("", ""), axes=("byte",), unit="px", spacing=(1.0,))
SEQUENCE = BYTES.model_copy(update={"layout": "packed", "spacing": None})


class TestMaskedTokens(MethodContract):
    name = "masked_tokens"
    encoder = ("tokens", ENCODER)
    views = staticmethod(unchanged)

    @classmethod
    def source(cls):
        return Words(cls.shape)


class TestMaskedTokensUntied(TestMaskedTokens):
    encoder = ("tokens", ENCODER | {"positions": "rope", "cls": True})
    options = {"tied": False, "mask_ratio": 0.3, "mask": {"name": "block", "blocks": 2}}


def given(**options):
    m = TestMaskedTokens.method(**options).double()
    return m, m.on_batch(TestMaskedTokens.batch(), CTX)


def built(spec, sizes, **options):
    """On tokens of a vocabulary, in fp64."""
    torch.manual_seed(0)
    patch = (1,) if spec.layout == "dense" else ()
    encoder = TokenEncoder({"x": spec}, TokenEncoder.Options(width=16, depth=1, heads=2, patch=patch, vocabulary=sizes))
    return MaskedTokens(encoder, {"x": spec}, validated(MaskedTokens.Options, options, "method")).double()


def of_bytes(rows=8, length=400):
    g = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (rows, 2, length), generator=g).double()
    valid, spacing = torch.ones(rows, 1, length, dtype=torch.bool), torch.ones(rows, 1, dtype=torch.float64)
    ids = torch.arange(rows)
    return Batch({"x": Dense(values, valid, spacing)}, ids, ids, ids, torch.ones(rows), {})


def near(count, n, p):
    """Whether a share is within 4 standard deviations of a binomial one."""
    return abs(count / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def test_of_the_chosen_80_become_the_mask_token_10_are_random_and_10_stay():
    # 64 rows of 400: int(400 * 0.85) = 340 stay, so 60 a row and 3840 in all are chosen
    m = built(BYTES, (256, 256))
    batch = of_bytes(64)
    spoiled = m.on_batch(batch, CTX)
    mask, before, after = spoiled.masks["x"], spoiled.ids["x"], spoiled.tokens["x"].patches.long()
    assert mask.hide.shape == (64, 60) and mask.hide_valid.all()
    assert torch.equal(before, batch.inputs["x"].values.transpose(1, 2).long())
    chosen = torch.zeros(64, 400, dtype=torch.bool).scatter(1, mask.hide, True)
    masked, changed = spoiled.masked["x"], (after != before).any(-1)
    assert not (masked & ~chosen).any() and not (changed & (~chosen | masked)).any()
    n = int(chosen.sum())
    assert n == 3840
    # a random token is the true one in both channels once in 65536
    assert near(int(masked.sum()), n, 0.8) and near(int(changed.sum()), n, 0.1)
    assert near(int((chosen & ~masked & ~changed).sum()), n, 0.1)


def test_random_ids_are_uniform_over_their_own_vocabulary():
    g = torch.Generator().manual_seed(0)
    ids, chosen = torch.zeros(50, 200, 2, dtype=torch.int64), torch.ones(50, 200, dtype=torch.bool)
    lot, noise = torch.rand(50, 200, generator=g), torch.rand(50, 200, 2, generator=g)
    drawn, masked = replaced(ids, chosen, (7, 5), lot, noise, 0.0, 1.0)
    assert not masked.any()
    for c, size in enumerate((7, 5)):
        found = drawn[..., c].flatten().bincount()
        assert len(found) == size and all(near(int(k), 10_000, 1 / size) for k in found)
    # the largest number below 1 gives the last id, also where float32 would round the product up to the size
    last = torch.full((1, 1, 1), 1 - 2.0**-24)
    assert replaced(ids[:1, :1, :1], chosen[:1, :1], (65_600,), lot[:1, :1], last, 0.0, 1.0)[0].item() == 65_599


def test_equal_logits_cost_the_sum_of_ln_v_over_the_channels():
    # ln 7 + ln 5 = 3.55535; two bytes: 2 ln 256 = 11.0904
    for m, batch, expected in (
        (*given(), math.log(7) + math.log(5)),
        (built(BYTES, (256, 256)), built(BYTES, (256, 256)).on_batch(of_bytes(), CTX), 11.0904),
    ):
        torch.nn.init.zeros_(m.heads["x"].transform[2].weight)  # and its bias is 0
        assert m.step(batch, CTX)["loss"].item() == pytest.approx(expected, abs=1e-4)


def test_an_untrained_model_costs_about_as_much():
    # logits are products of a vector of 16 channels of size 0.1 with rows of deviation 1/4: of variance 0.1^2, which adds
    # half of it in each channel
    m = built(BYTES, (256, 256))
    assert m.step(m.on_batch(of_bytes(), CTX), CTX)["loss"].item() == pytest.approx(11.0904 + 0.01, abs=0.02)


def test_the_loss_is_that_of_the_formula():
    m, spoiled = given(tied=False)
    _, logits = m._named(spoiled)
    total, count = torch.zeros(2, dtype=torch.float64), 0
    for b in range(8):
        for slot in range(spoiled.masks["x"].hide.shape[1]):
            if spoiled.masks["x"].hide_valid[b, slot] and spoiled.weight[b] > 0:
                ids = spoiled.ids["x"][b, spoiled.masks["x"].hide[b, slot]]
                total += torch.stack([-x[b, slot].log_softmax(-1)[k] for x, k in zip(logits["x"], ids, strict=True)])
                count += 1
    torch.testing.assert_close(m.step(spoiled, CTX)["loss"], total.sum() / count, rtol=0, atol=1e-12)
    # of 24 tokens int(24 * 0.85) = 20 stay: 4; of the 12 of the second item int(10.2) = 10: 2; two items failed
    assert count == 5 * 4 + 2


def test_tokens_that_are_not_chosen_get_no_gradient_from_the_head():
    m, spoiled = given()
    seen = []
    m.encoder.transformer.register_forward_hook(lambda module, args, out: (out.retain_grad(), seen.append(out))[0])
    m.step(spoiled, CTX)["loss"].backward()
    mask = spoiled.masks["x"]
    chosen = torch.zeros(8, 24, dtype=torch.bool).scatter(1, mask.hide, mask.hide_valid)
    got = seen[0].grad.abs().sum(-1)
    assert (got[~chosen] == 0).all() and (got[chosen & (spoiled.weight > 0)[:, None]] > 0).all()


def test_the_mask_token_hides_the_ids():
    m, spoiled = given()
    t, masked = spoiled.tokens["x"], spoiled.masked["x"]
    assert masked.any()
    other = replace(spoiled, tokens={"x": replace(t, patches=torch.where(masked[..., None], 1 - t.patches, t.patches))})
    assert torch.equal(m.step(spoiled, CTX)["loss"], m.step(other, CTX)["loss"])
    seen = replace(spoiled, tokens={"x": replace(t, patches=torch.where(masked[..., None], t.patches, 1 - t.patches))})
    assert m.step(spoiled, CTX)["loss"] != m.step(seen, CTX)["loss"]


def test_tied_heads_read_with_the_table():
    m, spoiled = given()
    untied = TestMaskedTokens.method(tied=False)
    own = set(dict(untied.named_parameters())) - set(dict(m.named_parameters()))
    assert own == {"heads.x.table"}
    with torch.no_grad():
        m.encoder.project["x"].table.zero_()
    # equal logits, whatever the features are
    assert m.step(spoiled, CTX)["loss"].item() == pytest.approx(math.log(35), abs=1e-12)


def test_what_does_not_count_may_hold_anything():
    logits = [torch.randn(3, 4, 7, dtype=torch.float64), torch.randn(3, 4, 5, dtype=torch.float64)]
    ids = torch.randint(0, 5, (3, 4, 2))
    weight = torch.ones(3, 4, 2)
    weight[1], weight[0, :2, 1] = 0, 0
    plain = naming(logits, ids, weight)
    logits[0][1], logits[1][0, :2] = torch.nan, torch.inf
    torch.testing.assert_close(naming(logits, ids, weight), plain)
    # the channels have a mean each: 8 tokens count in the first, 6 in the second
    first, second = (x.log_softmax(-1).gather(-1, ids[..., c : c + 1])[..., 0] for c, x in enumerate(logits))
    torch.testing.assert_close(plain, -first[[0, 2]].mean() - torch.cat([second[0, 2:], second[2]]).mean())


def packed():
    ids = torch.arange(8)
    values = torch.randint(0, 256, (51, 2), generator=torch.Generator().manual_seed(2)).double()
    x = pack(values, [9, 5, 0, 2, 1, 0, 30, 4])
    return Batch({"x": x}, ids, ids, ids, torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 0]), {})


def on_rank():
    return step_and_gradients(built(SEQUENCE, (256, 256)), share(packed()), CTX)


def test_packed_sequences_on_two_ranks(two_ranks):
    m = built(SEQUENCE, (256, 256))
    spoiled = m.on_batch(packed(), CTX)
    # 8 of the first 9 are valid: int(8 * 0.85) = 6 stay; int(5 * 0.85) = 4; one of two; of one none; int(30 * 0.85) = 25
    assert spoiled.masks["x"].hide_valid.sum(1).tolist() == [2, 1, 0, 1, 0, 0, 5, 1]
    assert_same(two_ranks.run(f"{__file__}:on_rank"), on_rank(), tolerance=1e-9)


def test_inputs_of_measured_values_are_context():
    torch.manual_seed(0)
    specs = {"x": BYTES, "size": SEQUENCE.model_copy(update={"channels": ("bytes",), "units": ("",)})}
    options = {"width": 16, "depth": 1, "heads": 2, "patch": {"x": (1,)}, "vocabulary": {"x": (256, 256)}}
    m = MaskedTokens(TokenEncoder(specs, TokenEncoder.Options(**options)), specs, MaskedTokens.Options()).double()
    values = torch.randn(8, 1, dtype=torch.float64)
    sizes = Packed(values, torch.ones(8, dtype=torch.bool), torch.zeros(8, 1).double(), torch.arange(9))
    batch = of_bytes(length=20).with_inputs(size=sizes)
    out = m.step(m.on_batch(batch, CTX), CTX)
    assert set(out["parts"]) == {"naming_x"}
    more = m.step(m.on_batch(batch.with_inputs(size=replace(sizes, values=values + 1)), CTX), CTX)
    assert out["loss"] != more["loss"]


def test_it_learns():
    # an item is one word again and again, so what is hidden follows from what is seen
    m = TestMaskedTokens.method(mask_ratio=0.3)
    word = torch.arange(8)[:, None].expand(8, 24)
    x = Dense(torch.stack([word % 7, word % 5], 1).float(), torch.ones(8, 1, 24, dtype=torch.bool), torch.ones(8, 1))
    batch = replace(TestMaskedTokens.batch().with_inputs(x=x), weight=torch.ones(8))
    losses = descent(m, batch, 100)
    assert sum(losses[-10:]) / 10 < 0.1 * math.log(35)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"masked": 0.8, "random": 0.3}, "masked and random are shares of the chosen tokens, got 1.1"),
     ({"mask_ratio": 1.0}, "mask_ratio")],
)  # fmt: skip
def test_shares_that_do_not_fit_are_refused(options, says):
    with pytest.raises(RequestError, match=says):
        validated(MaskedTokens.Options, options, "method")


def test_encoders_without_ids_are_refused():
    with pytest.raises(RequestError, match="method masked_tokens: needs a token encoder, got ConvNet"):
        MaskedTokens(ConvNet({"x": BYTES}, ConvNet.Options()), {"x": BYTES}, MaskedTokens.Options())
    plain = TokenEncoder({"x": BYTES}, TokenEncoder.Options(width=16, depth=1, heads=2, patch=(1,)))
    with pytest.raises(
        RequestError, match=r"method masked_tokens: needs an input that holds ids; set encoder\.vocabulary"
    ):
        MaskedTokens(plain, {"x": BYTES}, MaskedTokens.Options())
