"""Mask schemes: exact counts, even frequencies, and nothing that hangs on padding or on other rows."""

import math

import pytest
import torch

from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense, Packed
from unlabeled.core.contracts.recipe import validated
from unlabeled.core.methods.masking import Masking, draw_masks
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.core.streams import Draw
from unlabeled.core.testing.sync import NoWaiting
from unlabeled.core.tokens.boxes import boxes_mask
from unlabeled.core.tokens.lines import most_running, running_cell
from unlabeled.core.tokens.masks import kept, kept_each
from unlabeled.core.tokens.noise import filtered, reach
from unlabeled.core.tokens.patches import grid_coords
from unlabeled.core.tokens.positions import in_patches
from unlabeled.core.tokens.schemes import (
    KINDS,
    Asked,
    Block,
    Boxes,
    Clusters,
    FilteredNoise,
    Group,
    InverseBlock,
    Random,
    Spans,
    Tube,
)
from unlabeled.core.tokens.tokens import Tokens

RATIOS = (0.01, 0.29, 0.5, 0.75, 0.9, 0.99)
GRIDS = ((9,), (5, 7), (2, 8), (3, 4, 5))
ALL = [
    Random(),
    Block(blocks=2),
    Boxes(least=3),
    Group(),
    InverseBlock(),
    Clusters(sizes=(2, 4)),
    Tube(),
    Spans(axis=0, length=2),
    *[FilteredNoise(color=c) for c in ("red", "blue", "green", "purple")],
]
NAMES = [f"{k.name}-{k.color}" if isinstance(k, FilteredNoise) else k.name for k in ALL]
schemes = pytest.mark.parametrize("kind", ALL, ids=NAMES)


def given(grid, rows, valid=None):
    """Tokens that fill a grid, and their positions."""
    coords = grid_coords(grid, (1,) * len(grid), torch.ones(rows, len(grid)))
    if valid is None:
        valid = torch.ones(rows, math.prod(grid), dtype=torch.bool)
    tokens = Tokens.of(torch.ones(rows, math.prod(grid), 1), valid[..., None], coords, grid)
    return tokens, in_patches(tokens.coords, (1.0,) * len(grid))


def hidden(kind, grid, ratio, rows, rounding="keep", valid=None, epoch=0):
    """(rows, *grid) bool."""
    mask = kind.draw(Asked("x", *given(grid, rows, valid), Draw(0, epoch, torch.arange(rows)), ratio, rounding))
    out = torch.zeros(rows, math.prod(grid), dtype=torch.bool)
    return out.scatter(1, mask.hide, mask.hide_valid).reshape(rows, *grid)


def scattered(grid):
    """Rows with nothing, one token, a corner, some and all tokens valid."""
    n = math.prod(grid)
    corner = torch.zeros(grid, dtype=torch.bool)
    corner[tuple(slice((g + 1) // 2) for g in grid)] = True
    some = [torch.randperm(n, generator=torch.Generator().manual_seed(i)) < i * n // 6 for i in range(7)]
    return torch.stack([torch.arange(n) == n // 2, corner.flatten(), *some])


def test_both_roundings_by_hand():
    # 196 tokens at .985: "mask" hides int(193.06), so 3 stay; "keep" keeps int(2.94) = 2
    assert [kept(196, 0.985, r) for r in ("mask", "keep")] == [3, 2]
    # one stays and, from two tokens on, one is hidden
    assert [kept(n, 0.9, "mask") for n in (0, 1, 2, 3, 10, 11)] == [0, 1, 1, 1, 1, 2]
    assert [kept(n, 0.01, "mask") for n in (1, 2, 50, 300)] == [1, 1, 49, 297]
    assert [kept(n, 0.01, "keep") for n in (1, 2, 50, 300)] == [1, 1, 49, 297]


@pytest.mark.parametrize("rounding", ["keep", "mask"])
def test_host_and_device_round_alike_and_shorter_rows_fit(rounding):
    n = torch.arange(400)
    for percent in range(1, 100):
        of = kept_each(n, percent / 100, rounding)
        assert of.tolist() == [kept(i, percent / 100, rounding) for i in range(400)]
        # with one token more, one more is kept or one more hidden: so a shorter row fits into the places of a longer one
        assert ((of.diff() == 0) | (of.diff() == 1)).all()


@schemes
@pytest.mark.parametrize("rounding", ["keep", "mask"])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_exact_counts(kind, rounding, grid):
    if kind.name == "tube" and len(grid) == 1:
        return
    valid = scattered(grid)
    tokens, position = given(grid, len(valid), valid)
    for ratio in RATIOS:
        mask = kind.draw(Asked("x", tokens, position, Draw(0, 0, torch.arange(len(valid))), ratio, rounding))
        assert mask.keep.shape[1] + mask.hide.shape[1] == math.prod(grid)
        # tubes and spans hide whole lines: of the lines with a valid token so many are kept
        lines = {"tube": lambda x: x.any(0), "spans": lambda x: x.reshape(len(x), -1).any(1)}.get(
            kind.name, lambda x: x
        )
        for b in range(len(valid)):
            keep, hide = mask.keep[b][mask.keep_valid[b]], mask.hide[b][mask.hide_valid[b]]
            assert sorted([*keep.tolist(), *hide.tolist()]) == valid[b].nonzero().flatten().tolist()
            there = valid[b].reshape(grid)
            seen = torch.zeros(valid.shape[1], dtype=torch.bool).index_fill(0, keep, True).reshape(grid)
            n = int(lines(there).sum())
            assert int(lines(seen).sum()) == kept(n, ratio, rounding)
            if kind.name in ("tube", "spans"):
                assert not (lines(seen) & lines(there & ~seen)).any()
        # the last row has all tokens, and no fillers
        assert valid[-1].all() and mask.keep_valid[-1].all() and mask.hide_valid[-1].all()


@schemes
def test_same_draws_same_mask_and_rows_do_not_see_each_other(kind):
    once, few = hidden(kind, (5, 7), 0.5, 6), hidden(kind, (5, 7), 0.5, 3)
    assert torch.equal(once[:3], few)
    assert any(not torch.equal(once[0], other) for other in once[1:])
    assert not torch.equal(once, hidden(kind, (5, 7), 0.5, 6, epoch=1))


@schemes
@pytest.mark.parametrize("grid", [(9,), (5, 7), (3, 4, 5)], ids=str)
def test_padding_changes_nothing(kind, grid):
    if kind.name == "tube" and len(grid) == 1:
        return
    rows = 40
    wide = tuple(n + 3 + i for i, n in enumerate(grid))
    inner = (slice(None), *[slice(n) for n in grid])
    valid = torch.rand(rows, *grid, generator=torch.Generator().manual_seed(0)) < 0.9
    padded = torch.zeros(rows, *wide, dtype=torch.bool)
    padded[inner] = valid
    for ratio in (0.3, 0.8):
        alone = hidden(kind, grid, ratio, rows, valid=valid.flatten(1))
        among = hidden(kind, wide, ratio, rows, valid=padded.flatten(1))
        assert torch.equal(among[inner], alone) and among.sum() == alone.sum()


# the least often hidden place of a 7 x 9 grid over the most often hidden one, at .6 over 3000 rows. A frequency p has a
# deviation of sqrt(p (1 - p) / 3000) = .009, so 63 even places spread by 4 of them: .567 to .633 is .90, less for what
# comes in blocks. Blocks grow around a random token and cubes are cut by the border, as they were published.
LEAST = {
    "random": 0.88,
    "block": 0.25,
    "boxes": 0.84,
    "group": 0.86,
    "inverse_block": 0.7,
    "clusters": 0.86,
    "tube": 0.88,
    "spans": 0.8,
    "noise-red": 0.84,
    "noise-blue": 0.88,
    "noise-green": 0.86,
    "noise-purple": 0.86,
}


@pytest.mark.parametrize(("kind", "name"), [*zip(ALL, NAMES, strict=True)], ids=NAMES)
def test_no_place_is_starved(kind, name):
    rows, grid = 3000, (7, 9)
    found = hidden(kind, grid, 0.6, rows, "mask").double().mean(0)
    # int(63 * .6) = 37 tokens, int(9 * .6) = 5 of 9 tubes, int(7 * .6) = 4 of 7 rows
    share = {"tube": 5 / 9, "spans": 4 / 7}.get(kind.name, 37 / 63)
    torch.testing.assert_close(found.mean().item(), share)
    assert found.min() / found.max() > LEAST[name]
    # the border is hidden as often as the inside
    inside = found[1:-1, 1:-1].mean()
    border = (found.sum() - inside * 35) / 28
    if kind.name not in ("block", "inverse_block"):
        assert abs(border - inside) < 0.04


@schemes
def test_nothing_waits_for_the_device(kind):
    tokens, position = given((3, 4, 5), 2)
    with NoWaiting():
        kind.draw(Asked("x", tokens, position, Draw(0, 0, torch.arange(2)), 0.5, "mask"))


def edges(found):
    """Neighbours of which one is hidden and one is not."""
    return sum(found.narrow(a, 1, n - 1).ne(found.narrow(a, 0, n - 1)).sum() for a, n in enumerate(found.shape) if a)


def test_boxes_are_boxes():
    # BEiT: 75 of 196, boxes of 16 and more. Nearly every row is a union of few boxes: its outline is a third of chance's
    one, random = (hidden(k, (14, 14), 75 / 196 + 1e-9, 200, "mask") for k in (Boxes(), Random()))
    group = hidden(Group(), (14, 14), 75 / 196 + 1e-9, 200, "mask")
    assert one.flatten(1).sum(1).unique().tolist() == [75]
    assert edges(one) < 0.4 * edges(random) < edges(group) < 0.7 * edges(random)


def test_the_first_box_is_whole_and_the_count_cuts_the_second():
    # sizes drawn at the top: 64 of 196 tokens are one square of 8 x 8, which begins at floor(.5 * (14 + 7)) - 7 = 3
    valid = torch.ones(1, 196, dtype=torch.bool)
    position = given((14, 14), 1)[1]
    boxes = torch.tensor([[[1.0, 0.5, 0.5, 0.5], [1.0, 0.5, 0.0, 0.0]]])
    noise = torch.rand(1, 196, generator=torch.Generator().manual_seed(0))

    def found(count):
        mask = boxes_mask(valid, count / 196 + 1e-9, position, boxes, noise, rounding="mask")
        return torch.zeros(1, 196, dtype=torch.bool).scatter(1, mask.hide, mask.hide_valid).reshape(14, 14)

    square = torch.zeros(14, 14, dtype=torch.bool)
    square[3:11, 3:11] = True
    assert torch.equal(found(64), square)
    # a first box that sticks out leaves the rest to the second, which shrinks around its middle
    boxes = torch.tensor([[[1.0, 0.5, 0.0, 0.0], [1.0, 0.5, 0.5, 0.5]]])
    cut = found(64)
    corner = torch.zeros(14, 14, dtype=torch.bool)
    corner[0, 0] = True
    assert cut[0, 0] and cut.sum() == 64 and (cut & ~corner & ~square).sum() == 0
    assert cut[5:9, 5:9].all()


def test_the_boxes_follow_the_aspect():
    # of 100 x 100 tokens one box of 400: its sides' ratio is log-uniform in .3 to 1 / .3, deviation 1.2 * 2 / sqrt(12)
    found = hidden(Boxes(least=400), (100, 100), 0.04, 60, "mask").long()
    # its sides are the most tokens of a column and of a row; what another box adds is less
    sides = torch.stack([found.sum(1).amax(1), found.sum(2).amax(1)], 1).double()
    ratio = (sides[:, 0] / sides[:, 1]).log()[(sides.prod(1) - 400).abs() < 30]
    assert len(ratio) > 15 and ratio.abs().max() < math.log(1 / 0.3) + 0.1
    assert 0.5 < ratio.std() < 0.9


def test_clusters_hide_every_frequency_alike():
    # SSAST's own grid: 8 x 64 tokens, 400 of 512 hidden, .78125. The authors' sampler hides rows at .416 to .889. Over
    # 1500 draws a row of 64 strays by less than .004 (clusters of up to 25 tokens), a token by 4 deviations of .011
    found = hidden(Clusters(), (8, 64), 0.78125, 1500, "mask")
    assert found.flatten(1).sum(1).unique().tolist() == [400]
    rate = found.double().mean(0)
    assert (rate.mean(1) - 0.78125).abs().max() < 0.012
    assert rate.min() > 0.73 and rate.max() < 0.83


def test_clusters_are_squares():
    # 25 of 900 tokens are one square of 5 x 5, or one of 4 x 4 or 3 x 3 and parts of others
    found = hidden(Clusters(sizes=(5, 5)), (30, 30), 25 / 900 + 1e-9, 50, "mask")
    sides = torch.stack([found.any(2).sum(1), found.any(1).sum(1)], 1)
    assert found.flatten(1).sum(1).unique().tolist() == [25]
    # it lies within the grid with the chance (26 / 34)^2 = .58: 29 of 50, deviation 3.5
    assert 15 < (sides == 5).all(1).sum() < 44


@pytest.mark.parametrize("axis", [0, 1])
def test_spans_are_contiguous_and_only_the_last_is_cut(axis):
    found = hidden(Spans(axis=axis, length=5), (40, 40), 0.3, 100, "mask")
    other = 3 - (axis + 1)
    assert torch.equal(found.any(other), found.all(other))
    for row in found.any(other).long():
        assert row.sum() == 12
        edge = torch.diff(row, prepend=row.new_zeros(1), append=row.new_zeros(1))
        start, end = (edge == 1).nonzero().flatten(), (edge == -1).nonzero().flatten()
        assert ((end - start < 5) & (start > 0) & (end < 40)).sum() <= 1


def test_a_tube_is_constant_in_time():
    # VideoMAE: int(.9 * 196) = 176 of 14 x 14 tubes, so 20 * 8 = 160 of 1568 tokens stay
    found = hidden(Tube(), (8, 14, 14), 0.9, 4, "mask")
    assert torch.equal(found, found[:, :1].expand_as(found))
    assert (~found).flatten(1).sum(1).tolist() == [160] * 4


@pytest.mark.parametrize(("grid", "size"), [((8, 14, 14), 4), ((8, 5, 7), 4), ((6, 9), 2), ((5, 2, 2, 2), 8)])
def test_running_cells(grid, size):
    found = running_cell(grid, size // 2, torch.arange(size)).reshape(size, *grid)
    # over a cycle each token is taken equally often, and a phase is a shift in time
    if grid[0] >= size:
        assert (found[:, :size].sum(1) == size // 2).all()
    assert torch.equal(found[1:, :-1], found[:-1, 1:])
    # half a cycle later it is the complement
    if grid[0] > size // 2:
        assert torch.equal(found[:, size // 2 :], ~found[:, : grid[0] - size // 2])
    if not any(n % 2 for n in grid[1:]):
        # at every time half of the tokens
        assert (found.flatten(2).sum(2) == math.prod(grid[1:]) // 2).all()
    for taken in range(1, size + 1):
        each = running_cell(grid, taken, torch.arange(size)).reshape(size, *grid)
        assert most_running(grid, taken) == (each.flatten(1).sum(1).max(), each.sum(1).max())


def spectrum(found):
    """Power of masks (B, *S) by the length of the frequency, in cycles per token, up to .5: 10 bins of equal width."""
    axes = tuple(range(1, found.ndim))
    x = found.double() - found.double().mean(axes, keepdim=True)
    power = torch.fft.fftn(x, dim=axes).abs().square().mean(0)
    waves = torch.meshgrid(*[torch.fft.fftfreq(n) for n in found.shape[1:]], indexing="ij")
    length = torch.stack(waves).square().sum(0).sqrt()
    bins = (length * 20).floor().long()
    return torch.stack([power[bins == i].mean() for i in range(10)])


@pytest.mark.parametrize("grid", [(256,), (32, 32), (16, 16, 16)], ids=str)
def test_the_masks_of_filtered_noise_have_the_spectrum_of_their_colour(grid):
    # against random masks, whose spectrum is flat. A filter of s tokens passes exp(-2 (pi s f)^2): half of it for 1.5 at
    # f = .125, for .75 at .25; their difference is largest at .204, bin 4. The threshold of a mask smears a part over all
    rows = 60
    flat = spectrum(hidden(Random(), grid, 0.75, rows))
    found = {
        c: spectrum(hidden(FilteredNoise(color=c), grid, 0.75, rows)) / flat for c in ("red", "blue", "green", "purple")
    }
    red, blue, green, purple = found.values()
    assert red[1] > 2.5 and (red[1:].diff() < 0).all() and red[9] < 0.3
    assert blue[1:4].max() < 0.65 and blue[1:].argmax() >= 7 and blue[1:].max() > 1
    assert green[1:].argmax() in (2, 3, 4) and green[4] > 1.5 and green[4] > 1.8 * green[[1, 9]].max()
    assert purple[1:].argmin() in (2, 3, 4) and purple[4] < 0.6 and purple[[1, 9]].min() > 1.4 * purple[4]


def test_filtered_noise_is_what_an_fft_filters():
    # away from the border, the kernels are those of a periodic convolution: exact to the kernel's cut at 3 deviations
    sigma = (0.75, 1.5)
    far = reach(sigma)
    white = torch.randn(1, 40 + 2 * far, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kernels = [torch.exp(-(torch.arange(-far, far + 1).double() ** 2) / (2 * s * s)) for s in sigma]
    low, lower = (torch.nn.functional.conv1d(white[None], (k / k.sum())[None, None])[0] for k in kernels)
    plain = white[:, far:-far]
    for color, expected in {"red": lower, "blue": plain - low, "green": low - lower}.items():
        torch.testing.assert_close(filtered(white, color, sigma), expected)
    # a wave of the band's middle, 6.5 * .75 tokens long, is gone from purple noise, and a constant stays
    wave = torch.sin(2 * math.pi * 0.204 * torch.arange(40 + 2 * far, dtype=torch.float64))[None]
    assert filtered(wave, "purple", sigma).abs().max() < 0.03
    torch.testing.assert_close(
        filtered(torch.ones_like(white), "purple", sigma), torch.ones(1, 40, dtype=torch.float64)
    )


def chosen(mask):
    return validated(Masking, {"mask": mask}, "method").mask


def test_a_scheme_by_name_or_with_options():
    assert chosen("random") == Random() == Masking().mask
    assert chosen({"name": "block", "blocks": 2}) == Block(blocks=2)
    assert {k.model_fields["name"].default for k in KINDS} == {k.name for k in ALL}
    assert all(k.name in Masking.model_fields["mask"].description for k in ALL)
    for kind in ALL:
        assert chosen(kind.name).name == kind.name
        assert Masking.model_validate(Masking(mask=kind).model_dump()).mask == kind


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ("blok", "'blok' is unknown, did you mean 'block'\\?"),
        ({"name": "tubes"}, "'tubes' is unknown, did you mean 'tube'\\?"),
        ({"name": "block", "blcks": 2}, "block: 'blcks' is unknown, did you mean 'blocks'\\?"),
        ({"blocks": 2}, "name is missing, one of block, boxes"),
        ({"name": "block", "blocks": 0}, "mask.block.blocks: input should be greater than or equal to 1, got 0"),
        ({"name": "inverse_block", "length": 2}, "must be odd"),
        ({"name": "clusters", "sizes": [5, 3]}, "the smaller one first"),
        ({"name": "noise", "sigma": [1, 1]}, "the smaller one first"),
        (3, "mask: "),
    ],
)
def test_wrong_options_are_named(mask, said):
    with pytest.raises(RequestError, match=said):
        chosen(mask)


def masks_of(layout="dense", grid=(4, 4), **options):
    d = len(grid)
    spec = {
        "x": InputSpec(layout=layout, channels=("a",), units=("",), axes=(*"zyx"[-d:],), unit="px", spacing=(1.0,) * d)
    }
    encoder = TokenEncoder(spec, TokenEncoder.Options(width=12, depth=0, heads=1, patch=(1,) * d))
    if layout == "dense":
        x = Dense(torch.zeros(2, 1, *grid), torch.ones(2, 1, *grid, dtype=torch.bool), torch.ones(2, d), whole=True)
    else:
        x = Packed(torch.zeros(5, 1), torch.ones(5, dtype=torch.bool), torch.zeros(5, d), torch.tensor([0, 4, 5]))
    draw = Draw(0, 0, torch.arange(2))
    return draw_masks(Masking(**options), encoder, encoder.tokenise({"x": x}), draw)["x"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mask_ratio": 0.95}, "mask_ratio: 0.95 with rounding keep keeps none of 16, .* 'x'; lower it"),
        ({"mask_ratio": 0.05, "rounding": "mask"}, "rounding mask hides none of 16, .*; raise it"),
        ({"mask": "tube", "mask_ratio": 0.8}, "keeps none of 4, among which the mask tube chooses"),
        (
            {"mask": "tube", "grid": (16,)},
            "mask: tube needs a grid of 2 axes or more, and the input 'x' has 1; use random",
        ),
        ({"mask": {"name": "spans", "axis": 2}}, "spans needs a grid of 3 axes or more"),
        (
            {"mask": "noise", "layout": "packed"},
            "noise needs a grid, and the input 'x' has none, its tokens are packed",
        ),
        ({"mask": "inverse_block", "layout": "packed"}, "inverse_block needs a grid"),
        ({"mask": "clusters", "layout": "packed"}, "clusters needs a grid"),
    ],
)
def test_a_mask_that_cannot_be_met_is_refused(given, said):
    with pytest.raises(RequestError, match=said):
        masks_of(**given)


def test_what_can_be_met_is_not_refused():
    # 10 * (1 - .9) is a little below 1 in doubles: one is meant
    assert masks_of(grid=(10,), mask_ratio=0.9).keep.shape == (2, 1)
    assert masks_of(mask_ratio=0.9375).keep.shape == (2, 1)
    mask = masks_of(layout="packed", mask="boxes", mask_ratio=0.95)
    # rows of 4 and 1: one token of each stays
    assert mask.keep_valid.sum(1).tolist() == [1, 1] and mask.hide_valid.sum(1).tolist() == [3, 0]
    assert masks_of(mask="tube", mask_ratio=0.5).whole
