"""A land-cover map of a scene, as a COG."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
import torch
from rasterio.windows import Window

from bench import geo
from bench.row import Row, Work
from unlabeled.core.contracts import Head
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.downstream.model import Model
from unlabeled.core.nn.encoder import TokenEncoder
from unlabeled.earth.maps import segment

WINDOW = 64
CLASSES = ("crop", "forest", "water", "built", "bare")


def model_of(corpus: Corpus) -> Model:
    """ViT of width 192 and depth 4 on patches of 8 cells, with what the map's tags say of it."""
    torch.manual_seed(0)
    encoder = TokenEncoder(corpus.specs, TokenEncoder.Options(width=192, depth=4, heads=3, patch=(8, 8)))
    model = Model(encoder, "segmentation", len(CLASSES)).eval()
    side = (WINDOW * geo.GSD,) * 2
    model.about = SimpleNamespace(
        window=side,
        stride=side,
        classes=CLASSES,
        head=Head("segment", "segmentation", "miou", ""),
        start={"start": "random"},
        sha256={"encoder.safetensors": "", "head.safetensors": ""},
    )
    return model


def plain(model: Model, corpus: Corpus, source: Path, to: Path) -> Path:
    """The loop of every tutorial: window by window, read, predict, write; then a COG."""
    (constants,) = corpus.specs["x"].normaliser.constants.values()
    offset, scale = (torch.tensor(c)[:, None, None] for c in (constants.offset, constants.scale))
    rows = to.with_suffix(".rows.tif")
    with rasterio.open(source) as src, torch.inference_mode():
        tiled = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "lzw"}
        about: dict[str, Any] = {**src.profile, "driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255, **tiled}
        with rasterio.open(rows, "w", **about) as dst:
            for y in range(0, src.height, WINDOW):
                for x in range(0, src.width, WINDOW):
                    window = Window(x, y, WINDOW, WINDOW)
                    values = torch.from_numpy(src.read(window=window).astype(np.float32))
                    batch = corpus_batch(((values - offset) / scale)[None])
                    dst.write(model(batch).argmax(1).numpy().astype(np.uint8), window=window)
    rasterio.shutil.copy(rows, to, driver="COG", compress="deflate", overview_resampling="mode")
    rows.unlink()
    return to


def corpus_batch(values: torch.Tensor) -> dict[str, Any]:
    from unlabeled.core.contracts.batch import Dense

    valid = torch.ones(len(values), 1, *values.shape[2:], dtype=torch.bool)
    return {"x": Dense(values, valid, torch.full((len(values), 2), geo.GSD), whole=True)}


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    side = 256 if tiny else 2048
    at = geo.folder()
    source = geo.scene(at / "scene.tif", side)
    corpus = geo.corpus(source, 10_240.0)
    model = model_of(corpus)
    number = iter(range(10**6))

    def ours() -> Path:
        out = geo.folder()
        (record,) = segment(model, corpus, out, ("cog",), lambda done, total: None)
        return out / record.mask

    def peer() -> Path:
        return plain(model, corpus, source, at / f"peer-{next(number)}.tif")

    with rasterio.open(ours()) as a, rasterio.open(peer()) as b:
        same = float((a.read(1) == b.read(1)).mean())
    if same < 0.999:  # sums in another order may tip a tie
        raise AssertionError(f"the two maps agree in {same:.1%} of their cells only")
    return ours, peer


ROW = Row(
    what="The map of a scene of 2,048 x 2,048 cells with 4 bands, 5 classes, as a COG with overviews: a ViT of width 192 and "
    "depth 4 on patches of 8, windows of 64 cells side by side. Synthetic scene, random weights, CPU.",
    peer_name="a plain rasterio loop, window by window",
    like_for_like=True,
    difference="The two maps are compared before they are timed. Ours also blends, propagates the mask and writes names, colours "
    "and tags.",
    target=0.80,
    make=pair,
    turns=5,
)
