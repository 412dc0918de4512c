"""URLBERT: its contract, its oracles, and that none of the faults of the authors' code is in it."""

import math
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from unlabeled.core import streams
from unlabeled.core.contracts import Input, InputSpec, RequestError, Sample
from unlabeled.core.contracts.batch import Batch, Packed
from unlabeled.core.data.loading import Collate
from unlabeled.core.losses.contrastive import nt_xent
from unlabeled.core.losses.virtual_adversarial import symmetric, unit
from unlabeled.core.methods.base import unchanged
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.testing.learning import descent
from unlabeled.core.testing.method import CTX, Grids, MethodContract
from unlabeled.network.methods.urlbert import URLBERT, Rewritten
from unlabeled.network.url.tokens import BYTES, CHANNELS, PART_IDS, tokens, train, url_input
from unlabeled.network.url.urls import canonical, parse

SIZES = (257, PART_IDS)
ENCODER = {"width": 16, "depth": 2, "heads": 2, "patch": (1,), "vocabulary": SIZES}
HOSTS = ("www.example.com", "mail.example.org", "shop.test.co.uk", "ab.net")


def address(i: int) -> str:
    draw = streams.rng(0, "url", i)
    return f"https://{draw.choice(HOSTS)}/{draw.choice(['a/b', 'Login', 'x~y'])}?b={draw.integers(9)}&a={i}"


class URLs(Grids):
    """32 URLs, cut or padded to the grid: the contract's items are dense."""

    def sample(self, i: int) -> Sample:
        (length,) = self.shape
        rows = BYTES.rows(parse(address(i)))[:length]
        data, valid = np.zeros((2, length), np.float32), np.zeros((1, length), bool)
        data[:, : len(rows)], valid[:, : len(rows)] = rows.T, True
        x = Input(data, CHANNELS, ("id", "id"), unit="px", spacing=(1.0,), valid=valid)
        return Sample({"x": x}, key=f"u#{i}", group=f"g{i // 4}", index=i, record=i)


class TestURLBERT(MethodContract):
    name = "urlbert"
    encoder: ClassVar[tuple[str, dict[str, Any]]] = ("tokens", ENCODER)
    options: ClassVar[dict[str, Any]] = {"length": 40}
    shape = (40,)
    views = staticmethod(unchanged)

    @classmethod
    def source(cls) -> Grids:
        return URLs(cls.shape)


def packed(urls: list[str], method: URLBERT, limit: int = 200) -> Batch:
    """As the reader and the loader make it."""
    inputs = [url_input(method.tokens.rows(parse(u))[:limit]) for u in urls]
    spec = {"x": InputSpec.of(inputs[0], axes=("token",))}
    samples = [Sample({"x": x}, f"u#{i}", "g", index=i, record=i) for i, x in enumerate(inputs)]
    return Collate(spec)(samples)


def built(tokenizer: str = "bytes", width: int = 16, **options: Any) -> URLBERT:
    made = tokens(tokenizer)
    spec = InputSpec.of(url_input(made.rows(parse("a.b"))), axes=("token",))
    torch.manual_seed(0)
    chosen = TokenEncoder.Options(width=width, depth=1, heads=2, vocabulary=(made.size, PART_IDS))
    method = URLBERT(TokenEncoder({"x": spec}, chosen), {"x": spec}, URLBERT.Options(tokenizer=tokenizer, **options))
    return method.double()


def doubles(batch: Batch) -> Batch:
    x = batch.inputs["x"]
    assert isinstance(x, Packed)
    return batch.with_inputs(x=replace(x, values=x.values.double(), coords=x.coords.double()))


def given(n: int = 8, **options: Any) -> tuple[URLBERT, Batch, Rewritten]:
    method = built(**options)
    batch = doubles(packed([address(i) for i in range(n)], method))
    return method, batch, method.on_batch(batch, CTX)


def near(count: float, n: int, p: float) -> bool:
    """Whether a share is within 4 standard deviations of a binomial one."""
    return abs(count / n - p) < 4 * math.sqrt(p * (1 - p) / n)


def texts(rows: Any, method: URLBERT) -> list[bytes]:
    """The URLs of tokens (N, L, 2), 0 where not valid."""
    return [method.tokens.decode(row[row > 0].long().tolist()) for row in rows[..., 0]]


def test_one_mask_hides_15_percent_and_never_the_part() -> None:
    # fault 3: two draws on one tensor corrupt 1 - 0.85^2 = 28 % and lose half of the labels
    m = built(contrast=0.0, adversarial=0.0)
    raw = [address(i)[:40].ljust(40, "z") for i in range(100)]
    batch = doubles(packed(raw, m))
    spoiled = m.on_batch(batch, CTX)
    t, ids, masked = spoiled.tokens["x"], spoiled.ids["x"], spoiled.masked["x"]
    # 40 tokens: int(40 * 0.85) = 34 stay and 6 are chosen, in each of 100 rows
    mask = spoiled.masks["x"]
    assert mask.hide.shape == (100, 6) and mask.hide_valid.all()
    assert texts(ids, m) == [u.encode() for u in raw]  # what is asked for is what was there
    chosen = torch.zeros(100, 40, dtype=torch.bool).scatter(1, mask.hide, True)
    changed = t.patches[..., 0].long() != ids[..., 0]
    assert not ((changed | masked) & ~chosen).any()
    assert near(int(masked.sum()), 600, 0.8) and near(int(changed.sum()), 600, 0.1)
    assert torch.equal(t.patches[..., 1].long(), ids[..., 1]) and (t.patches[..., 0] > 0).all()
    # static masks are a fault too: another epoch hides others
    other = m.on_batch(batch, replace(CTX, epoch=2)).masks["x"]
    assert not torch.equal(other.hide, mask.hide)


def test_the_part_of_a_hidden_token_is_seen_and_its_id_is_not() -> None:
    m, _, spoiled = given(contrast=0.0, adversarial=0.0)
    t, masked = spoiled.tokens["x"], spoiled.masked["x"]
    assert masked.any()
    loss = m.step(spoiled, CTX)["loss"]

    def with_channel(c: int) -> Any:
        patches = t.patches.clone()
        patches[..., c] = torch.where(masked, 1 + patches[..., c] % 3, patches[..., c])
        return m.step(replace(spoiled, tokens={"x": replace(t, patches=patches)}), CTX)["loss"]

    assert torch.equal(with_channel(0), loss) and not torch.equal(with_channel(1), loss)


def test_untrained_names_cost_about_ln_257() -> None:
    m, _, spoiled = given(n=32)
    torch.nn.init.zeros_(m.heads["x"].transform[2].weight)
    # equal logits of 257 ids: ln 257 = 5.549076; the part is not named
    assert m.step(spoiled, CTX)["parts"]["naming"].item() == pytest.approx(5.549076, abs=1e-6)


def test_the_two_views_are_rewritings_of_one_url() -> None:
    # fault 2: two dropout passes of the same ids are no variants
    m, _, spoiled = given(n=32)
    assert spoiled.views is not None
    one, like, two, like_two = np.array(texts(spoiled.views.patches, m), object).reshape(4, 32)
    urls = [address(i).encode() for i in range(32)]
    assert [canonical(v) for v in one] == [canonical(u) for u in urls] == [canonical(v) for v in two]
    assert sum(a != b for a, b in zip(one, two, strict=True)) > 28
    assert [canonical(v) for v in like] == [canonical(v) for v in like_two]
    domains = [(parse(u).domain, parse(v).domain) for u, v in zip(urls, like, strict=True)]
    assert all(a != b and b for a, b in domains) and (spoiled.counts == 1).all()
    # the part of each token of a view is told anew
    first = parse(one[0])
    found = spoiled.views.patches[0, :, 1].long()[: len(one[0])]
    assert torch.equal(found, torch.from_numpy(first.part_of_bytes().astype(np.int64)))


def test_the_contrast_is_nt_xent_and_may_be_left_out() -> None:
    m, batch, spoiled = given(adversarial=0.0)
    out = m.step(spoiled, CTX)
    z = m.encoder.encode({"x": spoiled.views}).pooled
    torch.testing.assert_close(out["parts"]["contrast"], nt_xent(z[:16], z[16:], 0.1, torch.ones(16)).detach())
    torch.testing.assert_close(out["loss"].detach(), out["parts"]["naming"] + out["parts"]["contrast"])
    # one URL among many of the same features: 31 others, ln 31
    with torch.no_grad():
        for p in m.encoder.parameters():
            p.zero_()
        m.encoder.project["x"].table.fill_(1.0)
    assert m.step(spoiled, CTX)["parts"]["contrast"].item() == pytest.approx(math.log(31), abs=1e-6)
    plain = built(lookalikes=False)
    assert plain.on_batch(batch, CTX).counts.shape == (8,)
    assert built(contrast=0.0).on_batch(batch, CTX).views is None


def test_a_url_that_cannot_be_rewritten_has_no_lookalike_that_counts() -> None:
    m = built()
    spoiled = m.on_batch(doubles(packed(["http://[::1", "http://example.com/", "http://1.2.3.4/"], m)), CTX)
    # the URLs count; of what looks like them only the second, as an address and a broken host have no other name
    assert spoiled.counts.tolist() == [1, 1, 1, 0, 1, 0]
    assert m.step(spoiled, CTX)["loss"].isfinite()


def test_what_is_fed_back_is_the_word_and_not_what_has_a_position() -> None:
    # fault 4: the clean pass and the one with r = 0 are the same to the bit
    m, _, spoiled = given()
    r = torch.zeros(8, spoiled.tokens["x"].valid.shape[1], 16, dtype=torch.float64)
    assert torch.equal(m._logits(spoiled)[1], m._logits(spoiled, r)[1])
    words, seen = m.encoder.project["x"](spoiled.tokens["x"].patches), []
    embed = m.encoder.embed
    m.encoder.embed = lambda t, corrupt=None: (seen.append(corrupt("x", words)), embed(t, corrupt))[1]  # type: ignore[method-assign, assignment, misc]
    m._logits(spoiled, r + 0.5)
    masked = spoiled.masked["x"]
    torch.testing.assert_close(seen[0][~masked], words[~masked] + 0.5)


def test_the_adversarial_term() -> None:
    m, _, spoiled = given()
    parts = m.step(spoiled, CTX)["parts"]
    assert parts["adversarial"] > 0
    still = built(epsilon=0.0)
    assert still.step(still.on_batch(given()[1], CTX), CTX)["parts"]["adversarial"] == 0
    none = built(adversarial=0.0)
    assert "adversarial" not in none.step(spoiled, CTX)["parts"]
    # the found direction changes names more than a random one of the same size (Miyato et al., figure 1)
    t, weight = spoiled.tokens["x"], spoiled.masks["x"].hide_valid.double()
    _, logits = none._logits(spoiled)
    chance = symmetric(logits, none._logits(spoiled, 0.1 * unit(spoiled.start, t.valid))[1], weight)
    assert parts["adversarial"] > 2 * chance.detach()


def test_the_adversarial_term_is_a_mean_over_hidden_tokens() -> None:
    # fault 5: with the library's default the divergence is a sum, which doubles with the batch
    m = built()
    urls = [address(i) for i in range(4)]
    batch = doubles(packed(urls * 2, m))
    same = torch.arange(4).repeat(2)
    batch = replace(batch, index=same)
    half = doubles(packed(urls, m))
    found = [m.step(m.on_batch(b, CTX), CTX)["parts"]["adversarial"] for b in (batch, half)]
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=0)


def test_only_the_perturbed_side_gets_a_gradient() -> None:
    m, _, spoiled = given()
    clean = m._logits(spoiled)[1]
    clean.retain_grad()
    other = m._logits(spoiled, torch.full_like(spoiled.start, 0.1))[1]
    symmetric(clean, other, spoiled.masks["x"].hide_valid).backward()
    assert clean.grad is None and m.mask_token.grad is not None


def test_the_weights_are_those_of_the_options() -> None:
    # fault 1: two scripts with opposite weights
    m, _, spoiled = given(contrast=0.3, adversarial=10.0)
    out = m.step(spoiled, CTX)
    p = out["parts"]
    torch.testing.assert_close(out["loss"].detach(), p["naming"] + 0.3 * p["contrast"] + 10 * p["adversarial"])


def test_far_tokens_are_pretrained_too() -> None:
    # fault 6: positions from 64 on are used and were never trained; here whatever the reader keeps is hidden alike
    m = built()
    m_batch = doubles(packed([f"http://a.com/{'x' * 187}"] * 50, m))
    m_batch = replace(m_batch, index=torch.arange(50))
    hide = m.on_batch(m_batch, CTX).masks["x"].hide
    # 200 tokens, 30 hidden in each row: 64 to 199 hold 136 / 200 of them
    assert hide.shape == (50, 30) and near(int((hide >= 64).sum()), 1500, 136 / 200)


def test_case_is_kept() -> None:
    # fault 8
    m = built()
    ids = m.on_batch(doubles(packed(["http://a.com/AbC?q=De"], m)), CTX).ids["x"]
    assert texts(ids, m) == [b"http://a.com/AbC?q=De"]


def test_batch_mates_and_packing_change_nothing() -> None:
    m = built()
    urls = [address(0), f"http://a.com/{'x' * 150}", address(2)]
    together, alone = (m.encoder(doubles(packed(u, m)).inputs).pooled for u in (urls, urls[:1]))
    torch.testing.assert_close(together[:1], alone, rtol=0, atol=1e-12)


def test_byte_pairs(tmp_path: Any) -> None:
    file = tmp_path / "tokenizer.json"
    train([address(i) for i in range(32)], 300).save(str(file))
    m = built(str(file))
    assert m.tokens.size > 280 and m.sizes["x"] == (m.tokens.size, PART_IDS)
    spoiled = m.on_batch(doubles(packed([address(i) for i in range(8)], m)), CTX)
    assert texts(spoiled.ids["x"], m) == [address(i).encode() for i in range(8)]
    assert spoiled.views is not None
    assert [canonical(v) for v in texts(spoiled.views.patches[:8], m)] == [canonical(address(i)) for i in range(8)]
    assert m.step(spoiled, CTX)["loss"].isfinite()


def test_it_learns() -> None:
    m = built(width=32, mask_ratio=0.3, lookalikes=False).float()
    batch = packed([f"http://{h}/abcabcabc" for h in HOSTS], m)
    losses = descent(m, batch, 60)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_what_does_not_fit_is_refused(tmp_path: Any) -> None:
    spec = InputSpec.of(url_input(BYTES.rows(parse("a.b"))), axes=("token",))

    def of(s: InputSpec, sizes: tuple[int, ...], **options: Any) -> URLBERT:
        encoder = TokenEncoder({"x": s}, TokenEncoder.Options(width=16, depth=1, heads=2, vocabulary=sizes))
        return URLBERT(encoder, {"x": s}, URLBERT.Options(**options))

    with pytest.raises(RequestError, match="method urlbert: reads URLs and nothing else"):
        of(spec.model_copy(update={"channels": ("high", "low")}), SIZES)
    with pytest.raises(RequestError, match=r"257 ids in 12 parts; set encoder\.vocabulary: \[257, 12\]"):
        of(spec, (300, PART_IDS))
    with pytest.raises(RequestError, match=r"nothing\.json is absent here"):
        of(spec, SIZES, tokenizer=str(tmp_path / "nothing.json"))
    dense = InputSpec(channels=CHANNELS, units=("id", "id"), axes=("token",), unit="px", spacing=(1.0,))
    with pytest.raises(RequestError, match="method urlbert: needs a token encoder, got ConvNet"):
        URLBERT(ConvNet({"x": dense}, ConvNet.Options()), {"x": dense}, URLBERT.Options())
