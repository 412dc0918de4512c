"""Cross-attention, and the predictors made of it."""

import pytest
import torch

from unlabeled.core.nn.base import Features
from unlabeled.core.nn.cross import CrossAttention, CrossPredictor, Reference
from unlabeled.core.nn.predictor import Predictor
from unlabeled.core.nn.regressor import LatentDecoder, Regressor

OPTIONS = {"width": 16, "depth": 2, "heads": 2}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=rng(seed))


def predictor(positions="sincos", outputs=None):
    torch.manual_seed(0)
    return CrossPredictor(6, outputs or {"x": 5}, CrossPredictor.Options(**OPTIONS, positions=positions)).double()


def features(length, seed, valid=None):
    tokens = random(2, length, 6, seed=seed)
    valid = torch.ones(2, length, dtype=torch.bool) if valid is None else valid
    return Features(tokens, valid, tokens.mean(1))


def scene(reference=5):
    """Features of 3 visible tokens at (0, 0), (1, 2), (2, 1); 2 hidden places; features of a reference and its places."""
    visible = torch.tensor([[0.0, 0], [1, 2], [2, 1]], dtype=torch.float64).expand(2, -1, -1)
    hidden = torch.tensor([[1.0, 1], [2, 2]], dtype=torch.float64).expand(2, -1, -1)
    places = 4 * torch.rand(2, reference, 2, dtype=torch.float64, generator=rng(3))
    return features(3, 1), {"x": visible}, {"x": (hidden, None)}, features(reference, 2), {"x": places}


@pytest.mark.parametrize("silent", ["zero", "none", "invalid"])
def test_without_cross_weights_or_a_reference_it_is_the_predictor_of_mae(silent):
    torch.manual_seed(1)
    plain = Predictor(6, {"x": 5}, Predictor.Options(**OPTIONS)).double()
    cross = predictor()
    missing, unexpected = cross.load_state_dict(plain.state_dict(), strict=False)
    assert not unexpected and missing
    assert all(any(part in name for part in (".cross.", ".norm_query.", ".norm_reference.")) for name in missing)
    seen, visible, hidden, reference, places = scene()
    wanted = plain(seen, visible, hidden)["x"]
    assert (cross(seen, visible, hidden, reference, places)["x"] - wanted).abs().max() > 1e-3
    if silent == "zero":
        for block in cross.transformer.blocks:
            torch.nn.init.zeros_(block.cross.proj.weight)
        found = cross(seen, visible, hidden, reference, places)["x"]
    elif silent == "none":
        found = cross(seen, visible, hidden)["x"]
    else:
        nothing = Features(reference.tokens, torch.zeros(2, 5, dtype=torch.bool), reference.pooled)
        found = cross(seen, visible, hidden, nothing, places)["x"]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("positions", ["sincos", "rope"])
def test_permuting_the_reference_with_its_places_changes_nothing(positions):
    cross = predictor(positions)
    seen, visible, hidden, reference, places = scene()
    order = torch.randperm(5, generator=rng())
    moved = Features(reference.tokens[:, order], reference.valid[:, order], reference.pooled)
    one = cross(seen, visible, hidden, reference, places)["x"]
    other = cross(seen, visible, hidden, moved, {"x": places["x"][:, order]})["x"]
    torch.testing.assert_close(other, one, rtol=0, atol=1e-12)
    # the places do matter
    swapped = cross(seen, visible, hidden, moved, places)["x"]
    assert (swapped - one).abs().max() > 1e-4


@pytest.mark.parametrize("positions", ["sincos", "rope"])
def test_each_sequence_has_its_own_validity(positions):
    # invalid tokens of either sequence are as good as absent, whatever they hold
    cross = predictor(positions)
    seen, visible, hidden, reference, places = scene()
    there = torch.tensor([[True, True, False], [True, True, False]])
    known = torch.tensor([[True, False, True, True, False]]).expand(2, -1)
    part = Features(seen.tokens, there, seen.pooled), Features(reference.tokens, known, reference.pooled)
    found = cross(part[0], visible, hidden, part[1], places)["x"]
    short = cross(
        Features(seen.tokens[:, :2], there[:, :2], seen.pooled),
        {"x": visible["x"][:, :2]},
        hidden,
        Features(reference.tokens[:, known[0]], known[:, known[0]], reference.pooled),
        {"x": places["x"][:, known[0]]},
    )["x"]
    torch.testing.assert_close(found, short, rtol=0, atol=1e-12)


def test_rotary_predictions_depend_on_differences_of_positions_only():
    cross = predictor("rope")
    seen, visible, hidden, reference, places = scene()
    one = cross(seen, visible, hidden, reference, places)["x"]
    shift = torch.tensor([3.0, -7.0], dtype=torch.float64)
    by = {"x": visible["x"] + shift}, {"x": (hidden["x"][0] + shift, None)}
    other = cross(seen, *by, reference, {"x": places["x"] + shift})["x"]
    torch.testing.assert_close(other, one, rtol=0, atol=1e-12)
    # one of the two sequences moved alone is another scene; and so is the shift for sines that are added
    assert (cross(seen, *by, reference, places)["x"] - one).abs().max() > 1e-4
    sincos = predictor("sincos")
    by_sincos = sincos(seen, *by, reference, {"x": places["x"] + shift})["x"]
    assert (by_sincos - sincos(seen, visible, hidden, reference, places)["x"]).abs().max() > 1e-4


def test_cross_attention_is_a_mean_of_values():
    # equal keys: every value has the same share, 1/3 of the three valid ones
    torch.manual_seed(0)
    attention = CrossAttention(4, 2).double()
    torch.nn.init.zeros_(attention.key_value.weight[:4])
    torch.nn.init.eye_(attention.key_value.weight[4:])
    torch.nn.init.zeros_(attention.key_value.bias), torch.nn.init.zeros_(attention.proj.bias)
    torch.nn.init.eye_(attention.proj.weight)
    tokens = random(1, 4, 4)
    found = attention(random(1, 2, 4, seed=1), Reference(tokens, torch.tensor([[True, True, False, True]])))
    wanted = tokens[:, [0, 1, 3]].mean(1, keepdim=True).expand(-1, 2, -1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


def test_every_parameter_learns_also_with_several_inputs():
    # the reference may be of an input that is not predicted
    cross = predictor("rope", {"x": 5, "y": 3})
    _, visible, hidden, reference, places = scene()
    both = features(5, 4)
    found = cross(
        both,
        visible | {"y": places["x"][:, :2]},
        hidden | {"y": (places["x"][:, 2:], None)},
        reference,
        {"z": places["x"]},
    )
    assert found["x"].shape == (2, 2, 5) and found["y"].shape == (2, 3, 3)
    (found["x"].square().sum() + found["y"].square().sum()).backward()
    assert all(p.grad is not None and p.grad.norm() > 0 for p in cross.parameters())


def test_the_regressor_leaves_visible_tokens_as_they_are():
    # two blocks: what the second looks at is what the first looked at
    torch.manual_seed(0)
    regressor = Regressor(6, {"x": 6}, Predictor.Options(**OPTIONS)).double()
    seen, visible, hidden, _, _ = scene()
    kept = []
    for block in regressor.transformer.blocks:
        block.register_forward_hook(lambda module, args, out: kept.append((args[0][:, :3], out)))
    regressor(seen, visible, hidden)
    assert torch.equal(kept[0][0], kept[1][0])
    assert kept[0][1].shape == kept[1][1].shape == (2, 2, 16)
    assert not torch.equal(kept[0][1], kept[1][1])
    # as many weights as a predictor, by the same names
    assert [*regressor.state_dict()] == [*Predictor(6, {"x": 6}, Predictor.Options(**OPTIONS)).state_dict()]


def test_the_decoder_of_latents_goes_by_validity_and_place():
    torch.manual_seed(0)
    decoder = LatentDecoder(6, {"x": 5, "y": 2}, Predictor.Options(**OPTIONS)).double()
    latents = {"x": random(1, 3, 6), "y": random(1, 2, 6, seed=1)}
    at = {"x": random(1, 3, 2, seed=2), "y": random(1, 2, 2, seed=3)}
    valid = torch.tensor([[True, False, True]])
    found = decoder(latents, {"x": (at["x"], valid), "y": (at["y"], None)})
    assert found["x"].shape == (1, 3, 5) and found["y"].shape == (1, 2, 2)
    short = {"x": latents["x"][:, [0, 2]], "y": latents["y"]}
    again = decoder(short, {"x": (at["x"][:, [0, 2]], None), "y": (at["y"], None)})
    torch.testing.assert_close(found["y"], again["y"], rtol=0, atol=1e-12)
    moved = decoder(short, {"x": (at["x"][:, [2, 0]], None), "y": (at["y"], None)})
    assert (moved["y"] - again["y"]).abs().max() > 1e-4
