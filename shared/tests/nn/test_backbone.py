"""timm's convolutional nets as encoders, and what all convolutional encoders share."""

import pytest
import timm
import torch

from unlabeled.core import ranks
from unlabeled.core.bundle import load_bundle
from unlabeled.core.contracts import InputSpec, RequestError
from unlabeled.core.contracts.batch import Dense
from unlabeled.core.nn.backbone import TimmBackbone
from unlabeled.core.nn.convnet import ConvNet
from unlabeled.core.testing.bundles import install, made, make_bundle, shaken
from unlabeled.core.testing.ranks import assert_same


def spec(d=2, channels=2):
    return InputSpec(channels=("a", "b", "c")[:channels], units=("",) * channels, axes=("z", "y", "x")[-d:], unit="mm")


def backbone(model="test_resnet", **options):
    torch.manual_seed(0)
    return shaken(TimmBackbone({"x": spec()}, TimmBackbone.Options(model=model, **options)))


def dense(values, valid=None, whole=False):
    if valid is None:
        valid = torch.ones(len(values), 1, *values.shape[2:], dtype=torch.bool)
    return {"x": Dense(values, valid, torch.ones(len(values), values.ndim - 2), whole)}


def images(rows=2, size=64, dtype=torch.float32):
    return torch.randn(rows, 2, size, size, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "test_efficientnet", "test_nfnet"])
def test_it_gives_timms_maps_and_their_mean(model):
    encoder, x = backbone(model), images()
    theirs = timm.create_model(model, features_only=True, in_chans=2).eval()
    theirs.load_state_dict(encoder.net.state_dict())
    with torch.no_grad():
        wanted = theirs(x)
        for inputs in (dense(x, whole=True), dense(x)):
            maps, out = encoder.maps(inputs), encoder(inputs)
            assert len(maps) == len(wanted) == len(encoder.strides) == len(encoder.channels)
            for m, w, stride, channels in zip(maps, wanted, encoder.strides, encoder.channels, strict=True):
                torch.testing.assert_close(m.values, w, rtol=1e-5, atol=1e-5)
                assert m.values.shape == (2, channels, 64 // stride[0], 64 // stride[1]) and m.stride == stride
                assert m.valid.all()
            torch.testing.assert_close(out.pooled, wanted[-1].mean((2, 3)), rtol=1e-5, atol=1e-5)
            assert out.tokens.shape == (2, 4, encoder.token_width) and encoder.width == encoder.token_width
    assert encoder.stride == (32, 32)


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_an_image_alone_equals_itself_in_a_padded_batch(model):
    encoder, x = backbone(model).double(), images(1, dtype=torch.float64)
    big, valid = (
        torch.full((3, 2, 96, 128), torch.nan, dtype=torch.float64),
        torch.zeros(3, 1, 96, 128, dtype=torch.bool),
    )
    big[:1, :, :64, :64], valid[:1, :, :64, :64] = x, True
    big[1], valid[1] = 1e3, True
    with torch.no_grad():
        alone, padded = encoder(dense(x, whole=True)), encoder(dense(big, valid))
    torch.testing.assert_close(padded.pooled[:1], alone.pooled, rtol=1e-10, atol=1e-10)
    assert padded.valid.sum(1).tolist() == [4, 12, 0] and (padded.pooled[2] == 0).all()
    torch.testing.assert_close(padded.tokens[0][padded.valid[0]], alone.tokens[0], rtol=1e-10, atol=1e-10)


def test_a_size_that_is_no_multiple_of_the_stride_gives_what_timm_gives():
    # a convolution of stride 2 with half its kernel padded gives ceil(n / 2), the sites that hold a valid cell:
    # 45 cells are 23, 12, 6, 3 and 2 sites; the two that timm makes at the end are those of our 64 padded cells
    encoder, x = backbone(), images(size=45)
    with torch.no_grad():
        wanted, maps = encoder.net(x), encoder.maps(dense(x, whole=True))
    for m, w, n in zip(maps, wanted, (23, 12, 6, 3, 2), strict=True):
        assert m.valid.sum((1, 2)).tolist() == [n * n] * 2 and w.shape[2:] == (n, n)
        torch.testing.assert_close(m.values[:, :, :n, :n], w, rtol=1e-5, atol=1e-5)


def test_fewer_stages_have_a_finer_stride():
    encoder = backbone(stages=3)
    assert (
        encoder.stride == (8, 8)
        and encoder.token_width == encoder.channels[-1] == encoder.net.feature_info.channels()[2]
    )
    assert encoder(dense(images(size=16))).tokens.shape == (2, 4, encoder.token_width)
    assert not any(name.startswith("layer3") for name in encoder.net.state_dict())


@pytest.mark.parametrize("model", ["test_resnet", "test_convnext", "test_efficientnet", "test_byobnet", "test_nfnet"])
@pytest.mark.parametrize("stages", [1, 3, None])
def test_every_parameter_learns_from_the_features(model, stages):
    # timm's EfficientNets keep all stages, however few are asked for; DDP stops where a parameter gets no gradient
    encoder = backbone(model, stages=stages).train()
    encoder(dense(images(size=64))).pooled.square().sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    wanted = timm.create_model(
        model, features_only=True, in_chans=2, **({} if stages is None else {"out_indices": tuple(range(stages))})
    ).eval()
    missing = wanted.load_state_dict(encoder.net.state_dict(), strict=False)
    assert not missing.unexpected_keys and bool(missing.missing_keys) is (
        model == "test_efficientnet" and stages is not None
    )
    with torch.no_grad():
        maps = encoder.eval().maps(dense(images(), whole=True))
        for m, w in zip(maps, wanted(images()), strict=True):
            torch.testing.assert_close(m.values, w, rtol=1e-5, atol=1e-5)


def test_rows_without_a_valid_cell_move_no_statistics():
    # in training: one good image alone, and beside a row of NaN that failed to load
    x = images(dtype=torch.float64)
    x[1] = torch.nan
    valid = torch.ones(2, 1, 64, 64, dtype=torch.bool)
    valid[1] = False
    found = []
    for inputs in (dense(x[:1], whole=True), dense(x, valid)):
        encoder = backbone().double().train()
        encoder(inputs).pooled[0].square().sum().backward()
        found.append([b for n, b in encoder.named_buffers() if "running" in n] + [p.grad for p in encoder.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_convnets_maps_are_those_of_its_layers():
    options = ConvNet.Options(channels=(4, 6, 6), kernels=(5, 3, 3), strides=(2, 2, 1))
    for d, shape in ((1, (11,)), (2, (7, 9)), (3, (5, 6, 7))):
        torch.manual_seed(0)
        net = ConvNet({"x": spec(d)}, options)
        maps = net.maps(dense(torch.randn(2, 2, *shape)))
        assert [m.stride for m in maps] == [(2,) * d, (4,) * d, (4,) * d] == list(net.strides)
        for m, channels in zip(maps, (4, 6, 6), strict=True):
            sizes = tuple(-(-s // t) for s, t in zip(shape, m.stride, strict=True))
            assert m.values.shape == (2, channels, *sizes) and m.valid.shape == (2, *sizes)
        torch.testing.assert_close(
            net.eval()(dense(x := torch.randn(2, 2, *shape))).pooled[:, :6],
            net.maps(dense(x))[-1].values.flatten(2).mean(2),
        )


@pytest.mark.parametrize(
    ("model", "match"),
    [
        ("resnet81", "'resnet81' is unknown, did you mean 'resnet18'"),
        ("test_vit", "the maps of test_vit do not halve; use the token encoder"),
        ("test_maxvit", "test_maxvit cannot be masked"),
        ("test_mambaout", "test_mambaout cannot be masked"),
        ("hrnet_w18_small", "the last map of hrnet_w18_small does not depend on all of the net; choose another"),
    ],
)
def test_what_is_no_convolutional_net_is_refused(model, match):
    with pytest.raises(RequestError, match=match):
        backbone(model)


def test_inputs_that_do_not_fit_are_refused():
    with pytest.raises(RequestError, match="a timm net reads one dense input of 2 axes, got x; use"):
        TimmBackbone({"x": spec(3)}, TimmBackbone.Options())
    with pytest.raises(RequestError, match="of 2 axes, got x, y; use"):
        TimmBackbone({"x": spec(), "y": spec()}, TimmBackbone.Options())
    with pytest.raises(RequestError, match="timm gives no 9 feature maps of test_resnet"):
        backbone(stages=9)


def test_a_bundle_gives_the_same_encoder_back(tmp_path, monkeypatch):
    install(tmp_path / "site")
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))
    encoder = made("timm", {"x": spec()}, model="test_efficientnet", stages=4)
    encoder.train()
    encoder(dense(images()))  # moves the running moments and their counts
    loaded = load_bundle(make_bundle(tmp_path / "bundle", encoder))
    assert len(loaded.report.matched) == len(encoder.state_dict()) and loaded.stride == (16, 16)
    with torch.no_grad():
        assert torch.equal(loaded(dense(images())).pooled, encoder.eval()(dense(images())).pooled)


def task(whole):
    """Features and gradients of timm's net in training, on this rank's rows."""
    x = images(4, 32, torch.float64)
    valid = torch.ones(4, 1, 32, 32, dtype=torch.bool)
    if not whole:
        valid[3], valid[2, :, 5:] = False, False
    rows = slice(ranks.rank() * 4 // ranks.world(), (ranks.rank() + 1) * 4 // ranks.world())
    encoder = backbone("test_byobnet", stages=3).double().train()
    pooled = encoder(dense(x[rows], valid[rows], whole)).pooled
    ranks.total(pooled.square().sum()).backward()
    # every rank's loss is the global one, so after the sum over ranks a gradient counts `world` times
    grads = {name: ranks.total(p.grad) / ranks.world() for name, p in encoder.named_parameters()}
    return grads | {"pooled": ranks.gather(pooled.detach())} | {n: b.clone() for n, b in encoder.named_buffers()}


@pytest.mark.parametrize("whole", [True, False])
def test_timms_batch_norms_reduce_over_ranks(two_ranks, whole):
    assert_same(two_ranks.run(f"{__file__}:task", whole), task(whole), tolerance=1e-9)
