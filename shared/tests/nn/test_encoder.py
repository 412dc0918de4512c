"""The token encoder: features depend on where tokens are, not on which row of memory they are in."""

from dataclasses import replace

import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense, Packed
from unlabeled.core.contracts.spec import Normaliser
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.streams import uniform
from unlabeled.core.tokens.masks import random_mask

RANKS = {1: ((24,), (4,)), 2: ((6, 8), (3, 2)), 3: ((4, 4, 6), (2, 2, 3))}


def spec(d, channels=2, spacing=0.5, layout="dense"):
    names = tuple(f"c{i}" for i in range(channels))
    step = None if layout == "packed" else (spacing,) * d
    axes = ("depth", "height", "width")[-d:]
    return InputSpec(layout=layout, channels=names, units=("",) * channels, axes=axes, unit="mm", spacing=step)


def dense(shape, rows=3, channels=2, spacing=0.5):
    values = torch.randn(rows, channels, *shape, dtype=torch.float64)
    valid = torch.ones(rows, 1, *shape, dtype=torch.bool)
    return Dense(values, valid, torch.full((rows, len(shape)), spacing, dtype=torch.float64))


def encoder(specs, **options):
    torch.manual_seed(0)
    options = {"width": 24, "depth": 2, "heads": 2} | options
    return TokenEncoder(specs, TokenEncoder.Options(**options)).double()


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("options", [{}, {"cls": True, "pool": "cls"}, {"pool": "mean_max"}, {"positions": "learned"}])
def test_dropping_equals_masking_in_the_attention(d, options):
    shape, patch = RANKS[d]
    if options.get("positions") == "learned":
        options = options | {"grid": tuple(s // p for s, p in zip(shape, patch, strict=True))}
    enc = encoder({"x": spec(d)}, patch=patch, **options)
    x = dense(shape)
    tokens = enc.tokenise({"x": x})["x"]
    length = tokens.valid.shape[1]
    mask = random_mask(tokens.valid, 0.6, uniform(0, torch.arange(3), (length,)))
    dropped = enc({"x": x}, {"x": mask})
    keep = torch.zeros(3, length, dtype=torch.bool).scatter(1, mask.keep, True)
    masked = enc.encode({"x": replace(tokens, valid=keep)})
    expected = masked.tokens.take_along_dim(mask.keep[..., None], 1)
    torch.testing.assert_close(dropped.tokens, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(dropped.pooled, masked.pooled, rtol=0, atol=1e-12)
    # and the mask does something
    assert (dropped.pooled - enc({"x": x}).pooled).abs().max() > 1e-3


@pytest.mark.parametrize("d", [1, 2, 3])
def test_permuting_tokens_permutes_features(d):
    shape, patch = RANKS[d]
    enc = encoder({"x": spec(d)}, patch=patch)
    tokens = enc.tokenise({"x": dense(shape)})["x"]
    order = torch.randperm(tokens.valid.shape[1]).expand(3, -1)
    out = enc.encode({"x": tokens})
    permuted = enc.encode({"x": tokens.take(order, torch.ones_like(order, dtype=torch.bool))})
    expected = out.tokens.take_along_dim(order[..., None], 1)
    torch.testing.assert_close(permuted.tokens, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(permuted.pooled, out.pooled, rtol=0, atol=1e-12)
    # the coordinates matter: the same patches at other places give other features
    moved = enc.encode({"x": replace(tokens, coords=tokens.coords.take_along_dim(order[..., None], 1))})
    assert (moved.tokens - out.tokens).abs().max() > 1e-3


def test_coordinates_are_physical_but_positions_are_patches():
    # patches of 4 cells of 0.5 mm are 2 mm: centres at 1, 3, ... mm are positions 0, 1, ...
    enc = encoder({"x": spec(1, spacing=0.5)}, patch=(4,))
    assert enc.scale == {"x": (2.0,)}
    tokens = enc.tokenise({"x": dense((24,), spacing=0.5)})["x"]
    assert tokens.coords[0, :, 0].tolist() == [1, 3, 5, 7, 9, 11]
    assert enc.position("x", tokens.coords)[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5]
    # an item of cells twice as large has its patches, of 4 mm, twice as far apart: (2 + 4 i) / 2 - 1/2
    slow = enc.tokenise({"x": dense((24,), spacing=1.0)})["x"]
    assert enc.position("x", slow.coords)[0, :3, 0].tolist() == [0.5, 2.5, 4.5]


def test_scale_survives_in_the_options():
    specs = {"x": spec(1, spacing=0.5)}
    enc = encoder(specs, patch=(4,))
    again = TokenEncoder(specs, TokenEncoder.Options.model_validate_json(enc.options.model_dump_json()))
    assert again.options == enc.options
    assert encoder(specs, patch=(4,), position_scale=(3.0,)).scale == {"x": (3.0,)}


def test_padding_of_an_item_changes_nothing():
    # 20 valid cells alone, and the same with 12 more invalid ones that hold NaN
    enc = encoder({"x": spec(1)}, patch=(4,))
    alone = dense((20,), rows=1)
    values = torch.full((1, 2, 32), torch.nan, dtype=torch.float64)
    values[..., :20] = alone.values
    valid = torch.zeros(1, 1, 32, dtype=torch.bool)
    valid[..., :20] = True
    padded = enc({"x": Dense(values, valid, alone.spacing)})
    out = enc({"x": alone})
    torch.testing.assert_close(padded.tokens[:, :5], out.tokens, rtol=0, atol=1e-12)
    torch.testing.assert_close(padded.pooled, out.pooled, rtol=0, atol=1e-12)
    assert (padded.tokens[:, 5:] == 0).all()


@pytest.mark.parametrize("options", [{}, {"cls": True, "pool": "cls"}, {"pool": "mean_max"}])
@pytest.mark.parametrize("fused", [True, False])
def test_nothing_valid_pools_to_zeros_with_finite_gradients(options, fused):
    enc = encoder({"x": spec(1)}, patch=(4,), **options)
    for block in enc.transformer.blocks:
        block.attn.fused_attn = fused
    x = dense((24,), rows=2)
    x.valid[0] = False
    out = enc({"x": x})
    assert (out.pooled[0] == 0).all()
    assert out.pooled[1].abs().max() > 0
    out.pooled.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in enc.parameters())


def test_pooled_is_the_mean_and_maximum_of_valid_tokens():
    enc = encoder({"x": spec(1)}, patch=(4,), pool="mean_max")
    x = dense((24,), rows=1)
    x.valid[..., 8:12] = False
    out = enc({"x": x})
    seen = out.tokens[0, out.valid[0]]
    assert len(seen) == 5
    torch.testing.assert_close(out.pooled[0], torch.cat([seen.mean(0), seen.amax(0)]), rtol=0, atol=1e-12)


def test_several_inputs_are_one_sequence():
    # a signal of 6 patches and an event list of up to 3 tokens on the same axis
    specs = {"x": spec(1), "events": spec(1, channels=1, layout="packed")}
    enc = encoder(specs, patch={"x": (4,)})
    packed = Packed(
        values=torch.randn(4, 1, dtype=torch.float64),
        valid=torch.ones(4, dtype=torch.bool),
        coords=torch.rand(4, 1, dtype=torch.float64),
        offsets=torch.tensor([0, 3, 3, 4]),
    )
    inputs = {"x": dense((24,)), "events": packed}
    out = enc(inputs)
    assert out.valid.sum(1).tolist() == [9, 6, 7]
    # both inputs share their axis, so they share the scale: equal times have equal positions
    assert enc.scale["events"] == enc.scale["x"] == (2.0,)
    # row 1 has no event: its features are those without that input's tokens, whatever the other rows hold
    others = replace(packed, values=packed.values + 1)
    changed = enc({**inputs, "events": others})
    torch.testing.assert_close(changed.pooled[1], out.pooled[1], rtol=0, atol=1e-12)
    assert (changed.pooled[0] - out.pooled[0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": (4, 4)}, r"encoder\.patch: the input 'x' .* needs 1 positive numbers, got \[4, 4\]"),
        ({"patch": (4,), "heads": 5}, "a width of 24 cannot be shared by 5 heads"),
        ({"patch": (4,), "pool": "cls"}, "set cls: true"),
        ({"patch": (4,), "positions": "learned"}, r"encoder\.grid: learned positions of 'x' need 1 numbers"),
        ({"patch": (4,), "position_scale": (1.0, 0.0)}, r"encoder\.position_scale: 'x' needs 1 positive numbers"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(RequestError, match=message):
        encoder({"x": spec(1)}, **options)


@pytest.mark.parametrize("options", [{}, {"cls": True}, {"positions": "rope"}, {"causal": (1, 1)}])
def test_states_and_attention_of_the_blocks(options):
    shape, patch = RANKS[2]
    enc = encoder({"x": spec(2)}, patch=patch, **options)
    x = dense(shape)
    x.valid[1, :, 2:] = False
    tokens = enc.tokenise({"x": x})
    found = enc.encode(tokens, states=True, attention=True)
    torch.testing.assert_close(found.tokens, enc.encode(tokens).tokens, rtol=0, atol=0)
    valid = tokens["x"].valid[..., None]
    # one for every block, and the final norm of the last one is what the encoder gives
    assert len(found.states) == 2
    last = torch.where(valid, enc.transformer.norm(found.states[-1]), 0)
    torch.testing.assert_close(last, found.tokens, rtol=0, atol=1e-12)
    # what a block adds is what its attention and its MLP add
    layers = enc.encode(tokens, layers=True, states=True)
    torch.testing.assert_close(torch.stack(layers.states), torch.stack(found.states), rtol=0, atol=1e-12)
    # weights are a softmax: over all tokens 1, less what a class token keeps for itself; none for what is invalid
    total = found.attention.sum(1)
    assert (total < 1).all() if options.get("cls") else torch.allclose(total, torch.ones_like(total))
    assert (found.attention[~tokens["x"].valid] == 0).all() and (found.attention >= 0).all()


@pytest.mark.parametrize("turned", [False, True])
def test_attention_weights_mix_the_values_as_the_block_does(turned):
    enc = encoder({"x": spec(1)}, patch=(4,), positions="rope" if turned else "sincos")
    block = enc.transformer.blocks[0]
    x = torch.randn(2, 6, 24, dtype=torch.float64)
    turn = enc._turn(enc.tokenise({"x": dense((24,), rows=2)}), 0) if turned else None
    value = block.attn.qkv(x).chunk(3, -1)[2].unflatten(-1, (2, -1)).transpose(1, 2)
    mixed = block.attn.proj((block.attention(x, None, turn) @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(mixed, block.attend(x, None, turn=turn), rtol=0, atol=1e-12)


def moved(tokens, by):
    """The same tokens at coordinates that are further by `by` units."""
    return replace(tokens, coords=tokens.coords + by)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_rotary_features_depend_on_differences_of_positions_only(d):
    shape, patch = RANKS[d]
    enc = encoder({"x": spec(d)}, patch=patch, positions="rope")
    tokens = enc.tokenise({"x": dense(shape)})["x"]
    out = enc.encode({"x": tokens})
    shifted = enc.encode({"x": moved(tokens, torch.arange(1, d + 1) * 3.7)})
    torch.testing.assert_close(shifted.tokens, out.tokens, rtol=0, atol=1e-12)
    # while sines and cosines that are added tell where an item lies
    added = encoder({"x": spec(d)}, patch=patch)
    apart = added.encode({"x": moved(tokens, 3.7)}).tokens - added.encode({"x": tokens}).tokens
    assert apart.abs().max() > 1e-3
    # and every axis counts: exchanging two places along one of them changes the features
    for axis in range(d):
        mirrored = tokens.coords.clone()
        mirrored[..., axis] = mirrored[..., axis].amax() - 2 * mirrored[..., axis]
        assert (enc.encode({"x": replace(tokens, coords=mirrored)}).tokens - out.tokens).abs().max() > 1e-6


KINDS = [
    {"positions": "rope"},
    {"positions": "rope", "cls": True, "pool": "cls"},
    {"positions": "none", "cls": True},
    {"causal": 1},
    {"causal": 2, "cls": True},
    {"causal": 1, "positions": "rope", "cls": True, "pool": "mean_max"},
]


def of_kind(d, options, **more):
    """An encoder of one of the KINDS, whose clusters have `causal` patches along every axis."""
    if n := options.get("causal"):
        options = options | {"causal": (n,) * d}
    return encoder({"x": spec(d)}, patch=RANKS[d][1], **options, **more)


@pytest.mark.parametrize("d", [1, 2, 3])
@pytest.mark.parametrize("options", KINDS)
def test_dropping_and_permuting_are_exact_with_every_kind_of_position(d, options):
    enc = of_kind(d, options)
    tokens = enc.tokenise({"x": dense(RANKS[d][0])})["x"]
    length = tokens.valid.shape[1]
    mask = random_mask(tokens.valid, 0.6, uniform(0, torch.arange(3), (length,)))
    dropped = enc.encode({"x": mask.visible(tokens)})
    keep = torch.zeros(3, length, dtype=torch.bool).scatter(1, mask.keep, True)
    masked = enc.encode({"x": replace(tokens, valid=keep)})
    expected = masked.tokens.take_along_dim(mask.keep[..., None], 1)
    torch.testing.assert_close(dropped.tokens, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(dropped.pooled, masked.pooled, rtol=0, atol=1e-12)
    order = torch.stack([torch.randperm(length) for _ in range(3)])
    out = enc.encode({"x": tokens})
    permuted = enc.encode({"x": tokens.take(order, torch.ones_like(order, dtype=torch.bool))})
    torch.testing.assert_close(permuted.tokens, out.tokens.take_along_dim(order[..., None], 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(permuted.pooled, out.pooled, rtol=0, atol=1e-12)


def test_without_positions_places_change_nothing():
    enc = encoder({"x": spec(2)}, patch=(3, 2), positions="none")
    tokens = enc.tokenise({"x": dense((6, 8))})["x"]
    order = torch.randperm(8)
    elsewhere = enc.encode({"x": replace(tokens, coords=tokens.coords[:, order] * 5)})
    assert torch.equal(elsewhere.tokens, enc.encode({"x": tokens}).tokens)


def reach(enc, tokens):
    """(L, L) bool, of the first item: whether the features of the token of a row hang on the patch of a column."""
    patches = tokens.patches.clone().requires_grad_()
    out = enc.encode({"x": replace(tokens, patches=patches)}).tokens
    rows = [torch.autograd.grad(out[0, i, 0], patches, retain_graph=True)[0][0] for i in range(out.shape[1])]
    return torch.stack(rows).abs().sum(-1) > 0


@pytest.mark.parametrize("options", [{}, {"cls": True}, {"positions": "rope"}])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 2), (1, 2), (4, 4)])
def test_a_causal_encoder_looks_at_its_own_cluster_and_those_before(sizes, options):
    # 4 x 4 patches; the number of a patch's cluster in raster order, by hand
    enc = encoder({"x": spec(2)}, patch=(2, 3), causal=sizes, **options)
    tokens = enc.tokenise({"x": dense((8, 12))})["x"]
    row, column = torch.arange(16) // 4, torch.arange(16) % 4
    cluster = row // sizes[0] * (4 // sizes[1]) + column // sizes[1]
    assert torch.equal(reach(enc, tokens), cluster[None, :] <= cluster[:, None])


def test_a_causal_encoder_looks_at_no_invalid_token_and_at_all_kept_ones():
    enc = encoder({"x": spec(2)}, patch=(2, 3), causal=(1, 1))
    x = dense((8, 12))
    x.valid[:, :, :, 3:6] = False  # the second column of patches
    seen = reach(enc, enc.tokenise({"x": x})["x"])
    there = torch.arange(16) % 4 != 1
    earlier = torch.arange(16)[None, :] <= torch.arange(16)[:, None]
    assert torch.equal(seen, earlier & there[None, :] & there[:, None])
    # of dropped tokens in any order, those before are the ones that lie before
    tokens = enc.tokenise({"x": dense((8, 12))})["x"]
    kept = torch.tensor([[9, 2, 14, 5]]).expand(3, -1)
    at = kept[0]
    assert torch.equal(reach(enc, tokens.take(kept, None)), at[None, :] <= at[:, None])


def test_items_of_other_cells_are_in_causal_order_too():
    # half as large cells: two patches a place, which see each other
    enc = encoder({"x": spec(1, spacing=0.5)}, patch=(4,), causal=(1,))
    tokens = enc.tokenise({"x": dense((24,), spacing=0.25)})["x"]
    place = torch.arange(6) // 2
    assert torch.equal(reach(enc, tokens), place[None, :] <= place[:, None])


def test_packed_tokens_at_multiples_of_the_scale_are_clusters_of_their_own():
    # 3 * 0.1 / 0.1 is a little below 3 in doubles
    enc = encoder({"x": spec(1, layout="packed")}, causal=(1,), position_scale=(0.1,))
    at = (torch.arange(12) * 0.1)[:, None].double()
    x = Packed(torch.randn(12, 2).double(), torch.ones(12, dtype=torch.bool), at, torch.tensor([0, 12]))
    seen = reach(enc, enc.tokenise({"x": x})["x"])
    assert torch.equal(seen, torch.ones(12, 12, dtype=torch.bool).tril())


def test_keys_are_attended_to_and_all_tokens_ask():
    enc = encoder({"x": spec(1)}, patch=(4,), cls=True)
    tokens = enc.tokenise({"x": dense((24,))})["x"]
    keys = torch.tensor([[True, False, True, False, False, True]]).expand(3, -1)
    out = enc.encode({"x": tokens}, keys=keys)
    # a key's features are those of the keys alone, and all tokens are pooled
    alone = enc.encode({"x": replace(tokens, valid=keys, whole=False)})
    torch.testing.assert_close(out.tokens[keys], alone.tokens[keys], rtol=0, atol=1e-12)
    torch.testing.assert_close(out.pooled, out.tokens.mean(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(out.cls, alone.cls, rtol=0, atol=1e-12)
    # and all tokens as keys are the default
    torch.testing.assert_close(
        enc.encode({"x": tokens}, keys=torch.ones_like(keys)).tokens, enc.encode({"x": tokens}).tokens
    )


def test_the_class_token_is_a_feature():
    enc = encoder({"x": spec(1)}, patch=(4,), cls=True, pool="cls")
    out = enc({"x": dense((24,))})
    assert torch.equal(out.cls, out.pooled)
    assert encoder({"x": spec(1)}, patch=(4,))({"x": dense((24,))}).cls is None


def ids(*sizes, length=24, rows=3):
    values = torch.stack([torch.randint(0, n, (rows, length)) for n in sizes], 1).double()
    valid = torch.ones(rows, 1, length, dtype=torch.bool)
    return Dense(values, valid, torch.full((rows, 1), 0.5, dtype=torch.float64))


def test_a_vocabulary_is_one_hot_vectors_times_a_table():
    enc = encoder({"x": spec(1)}, patch=(1,), vocabulary=(7, 300))
    x = ids(7, 300)
    tokens = enc.tokenise({"x": x})["x"]
    first, second = (torch.nn.functional.one_hot(x.values[:, c].long(), n) for c, n in enumerate((7, 300)))
    table = enc.project["x"].table
    expected = torch.cat([first, second], -1).double() @ table * 24**0.5
    torch.testing.assert_close(enc.projected("x", tokens), expected, rtol=0, atol=1e-12)
    # unit size, as the positions that are added: 16 * 307 numbers of deviation 1
    assert abs(float(table.detach().std()) * 24**0.5 - 1) < 0.1
    # rounded, and the nearest id where there is none
    near = replace(tokens, patches=tokens.patches + 0.3)
    assert torch.equal(enc.projected("x", near), enc.projected("x", tokens))
    far = replace(tokens, patches=torch.full_like(tokens.patches, 1e6))
    torch.testing.assert_close(enc.projected("x", far)[0, 0], (table[6] + table[306]) * 24**0.5)


def test_half_precision_keeps_ids_apart():
    # bfloat16 has 8 bits: 257 would be 256
    enc = encoder({"x": spec(1, channels=1)}, patch=(1,), vocabulary=(300,)).bfloat16()
    x = ids(300)
    x.values[0, 0, :2] = torch.tensor([256.0, 257.0])
    vectors = enc.projected("x", enc.tokenise({"x": replace(x, values=x.values.float())})["x"])[0]
    assert vectors.dtype == torch.bfloat16 and not torch.equal(vectors[0], vectors[1])


def test_ids_beside_measured_values():
    specs = {"x": spec(1), "size": spec(1, channels=1, layout="packed")}
    enc = encoder(specs, patch={"x": (1,)}, vocabulary={"x": (7, 5)})
    assert enc.vocabulary == {"x": (7, 5), "size": ()}
    values = torch.randn(3, 1, dtype=torch.float64)
    packed = Packed(values, torch.ones(3, dtype=torch.bool), torch.zeros(3, 1).double(), torch.arange(4))
    out = enc({"x": ids(7, 5), "size": packed})
    assert out.tokens.shape == (3, 25, 24)
    out.pooled.square().sum().backward()
    assert all(p.grad is not None for p in enc.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"causal": (1, 1)}, r"encoder\.causal: needs one input, 1 positive numbers .* \(width\)"),
        ({"causal": (0,)}, r"encoder\.causal: .* got \[0\]"),
        ({"causal": (1,), "cls": True, "pool": "cls"}, r"encoder\.causal: .* another pool than cls"),
        ({"vocabulary": {"y": (7, 5)}, "patch": (1,)}, r"encoder\.vocabulary: 'y' is unknown, known: x"),
        ({"vocabulary": (7,), "patch": (1,)}, r"encoder\.vocabulary: the input 'x' .* each of its 2 channels"),
        ({"vocabulary": (7, 0), "patch": (1,)}, r"encoder\.vocabulary: .* got \[7, 0\] and patches of \[1\]"),
        ({"vocabulary": (7, 5)}, r"encoder\.vocabulary: .* patches of one cell, got \[7, 5\] and patches of \[4\]"),
        ({"positions": "rope", "width": 27, "heads": 3}, r"encoder\.positions: rope .* 3 heads has 9"),
        ({"positions": "rope", "width": 24, "heads": 24}, r"encoder\.positions: rope .* 24 heads has 1"),
    ],
)
def test_new_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(RequestError, match=message) as error:
        encoder({"x": spec(1)}, **({"patch": (4,)} | options))
    assert "\n" not in str(error.value)


def test_several_inputs_have_no_causal_order():
    with pytest.raises(RequestError, match=r"encoder\.causal: needs one input"):
        encoder({"a": spec(1), "b": spec(1)}, patch=(4,), causal=(1,))


def test_ids_that_would_be_normalised_are_refused():
    normalised = spec(1, channels=1).model_copy(update={"normaliser": Normaliser(method="standard")})
    with pytest.raises(RequestError, match=r"the ids of 'x' would be normalised \(standard\).* data\.normaliser: none"):
        encoder({"x": normalised}, patch=(1,), vocabulary=(7,))


@pytest.mark.parametrize(
    "options",
    [
        {"cls": True, "pool": "cls"},
        {"cls": True, "pool": "cls", "depth": 0},
        {"cls": True, "pool": "cls", "positions": "rope"},
        {"cls": True},
        {"pool": "mean_max"},
    ],
)
def test_a_summary_is_the_pooled_feature_and_its_gradient(options):
    enc = encoder({"x": spec(2)}, patch=RANKS[2][1], **options)
    x = dense(RANKS[2][0])
    x.valid[1, ..., 4:] = False
    x.valid[2] = False
    found = []
    for call in (enc, enc.summary):
        enc.zero_grad()
        pooled = call({"x": x}).pooled
        pooled.square().sum().backward()
        found.append([pooled, *(p.grad for p in enc.parameters() if p.grad is not None)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    # of a class token's last block only that token is computed
    alone = options.get("pool") == "cls"
    assert (enc.summary({"x": x}).tokens.shape[1] == 0) is alone
