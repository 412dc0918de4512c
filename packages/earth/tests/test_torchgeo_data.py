"""torchgeo's data sets as our folder: the same values, labels and places, read back by our own reader."""

import numpy as np
import pytest
import torch
from torchgeo.datasets import EuroSAT, NonGeoDataset, RasterDataset

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Data
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.evaluation.labels import read_labels
from unlabeled.earth import domain
from unlabeled.earth.labels import cells
from unlabeled.earth.sensors import SENSORS
from unlabeled.earth.torchgeo_data import from_torchgeo

from .data import scenes


@pytest.fixture(autouse=True)
def key(tmp_path, monkeypatch):
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))


def opened(path, **options):
    return Corpus.open(domain, Data(path=path, options={"block": 1e6, **options}))


@pytest.fixture
def eurosat(tmp_path):
    """EuroSAT's own layout on disk: 13 bands with B8A last, a folder a class, a text file a split."""
    root = tmp_path / "eurosat"
    names = []
    for c, kind in enumerate(("Forest", "River")):
        for i in range(3):
            values = scenes.dn(13, 8, 8, seed=10 * c + i)
            scenes.raster(root / EuroSAT.base_dir / kind / f"{kind}_{i}.tif", values, names=None)
            names.append(f"{kind}_{i}.jpg")
    (root / "eurosat-train.txt").write_text("\n".join(names))
    return EuroSAT(root, split="train")


def test_eurosat_comes_out_as_it_went_in(eurosat, tmp_path):
    """B8A, EuroSAT's last, is the sensor's ninth; 10,000 DN of an old baseline are reflectance 1."""
    images = from_torchgeo(eurosat, tmp_path / "out", "DN")
    bands = SENSORS["sentinel2-l1c"].names
    corpus = opened(images, allow_nogeo=True, sensor="sentinel2-l1c", s2_offset="none", bands=bands)
    assert corpus.specs["x"].channels == bands and set(corpus.specs["x"].units) == {"1"}
    order = [EuroSAT.all_band_names.index(b if b == "B8A" else f"B{int(b[1:]):02d}") for b in bands]
    assert order[8] == 12
    for i in range(6):
        theirs = eurosat[i]["image"].numpy()[order] / 10_000
        np.testing.assert_allclose(corpus.record(i).inputs["x"].data, theirs, rtol=1e-6)
    labels = read_labels(tmp_path / "out" / "labels.csv", [r.key for r in corpus.rows])
    assert labels.classes == ("Forest", "River") and labels.codes.tolist() == [0, 0, 0, 1, 1, 1]


def test_values_that_are_no_integers_stay_what_they_are(tmp_path):
    values = np.array([[[0.25, 1.5], [3.0, -2.0]]], np.float32)
    images = from_torchgeo(Items({"image": torch.from_numpy(values)}), tmp_path / "out", "DN", bands=("height",))
    x = opened(images, allow_nogeo=True).record(0).inputs["x"]
    np.testing.assert_array_equal(x.data, values)
    assert x.units == ("DN",)


class Images(RasterDataset):
    filename_glob = "*.tif"
    all_bands = ("red", "green")


class Masks(RasterDataset):
    filename_glob = "*.tif"
    is_image = False


def test_geodatasets_keep_their_place(tmp_path):
    """Images and masks of the same ground, joined by torchgeo; the labels are found again by their place."""
    values = scenes.dn(2, 12, 16).astype(np.float32)
    codes = np.where(values[0] > 2500, 2, 1).astype(np.uint8)
    codes[0] = 0
    scenes.raster(tmp_path / "i" / "a.tif", values, ("red", "green"))
    scenes.raster(tmp_path / "m" / "a.tif", codes[None], names=None)
    joined = Images(tmp_path / "i") & Masks(tmp_path / "m")
    images = from_torchgeo(joined, tmp_path / "out", "DN", ignore=0)
    corpus = opened(images)
    x = corpus.record(0).inputs["x"]
    assert x.unit == "m" and x.spacing == (10.0, 10.0)
    np.testing.assert_array_equal(x.data, values)
    place = corpus.reader.place(images / "00000.tif", 0)
    assert place.crs.to_string() == scenes.ZONE33 and place.bounds == (500_000.0, 4_999_880.0, 500_160.0, 5_000_000.0)
    found = cells(tmp_path / "out" / "masks", corpus)
    np.testing.assert_array_equal(found.of(0), codes.astype(int) - 1)  # 0 has no label: -1


class Items(NonGeoDataset):
    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]


@pytest.mark.parametrize(
    ("sample", "words"),
    [
        ({"label": 1}, "holds no image .found label"),
        ({"image": torch.ones(3, 4, 4), "label": 0}, "no image of the 2 bands red, green"),
        ({"image": torch.ones(5, 2, 4, 4)}, "single images"),
        ({"image": torch.ones(2, 4, 4), "mask": torch.ones(4, 3)}, "its image .4, 4."),
        ({"image": torch.ones(2, 4, 4), "label": torch.ones(3)}, "none of 0 classes"),
    ],
)
def test_what_is_no_image_is_refused_and_leaves_nothing(tmp_path, sample, words):
    with pytest.raises(RequestError, match=words):
        from_torchgeo(Items(sample), tmp_path / "out", "DN", bands=("red", "green"))
    assert not (tmp_path / "out").exists()


def test_bands_are_never_guessed(tmp_path):
    with pytest.raises(RequestError, match="Items does not name its bands"):
        from_torchgeo(Items({"image": torch.ones(2, 4, 4)}), tmp_path / "out", "DN")
    with pytest.raises(RequestError, match="there are 2 for the 1 bands red"):
        from_torchgeo(Items(), tmp_path / "out", ("DN", "1"), bands=("red",))
    with pytest.raises(RequestError, match="holds no item"):
        from_torchgeo(Items(), tmp_path / "out", "DN", bands=("red",))
