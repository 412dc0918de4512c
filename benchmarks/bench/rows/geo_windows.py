"""Batches of random windows of scenes: one large COG, and 200 small scenes."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

from bench import geo
from bench.row import Row, Work
from unlabeled.core.data.items import cut
from unlabeled.core.data.loading import Loader
from unlabeled.core.data.plans import Uniform

WINDOW, BATCH, SMALL = 128, 16, 256


def ours(path: Path, batches: int) -> Work:
    items = cut(geo.corpus(path, 10_240.0), (WINDOW * geo.GSD,) * 2, (WINDOW * geo.GSD / 4,) * 2)
    loader = Loader(items, items.corpus.specs, Uniform(len(items), BATCH), seed=0)
    stream = loader.batches(0, 1_000_000)
    return lambda: [next(stream)[1].inputs["x"] for _ in range(batches)]


def peer(path: Path, batches: int) -> Work:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own dependencies' deprecations
        from torchgeo.datasets import RasterDataset, stack_samples
        from torchgeo.samplers import RandomGeoSampler

        data = RasterDataset(path)
    sampler = RandomGeoSampler(data, size=WINDOW, length=BATCH * batches)
    loader = torch.utils.data.DataLoader(data, batch_size=BATCH, sampler=sampler, collate_fn=stack_samples)

    def forever() -> Iterator[torch.Tensor]:
        for _ in itertools.count():
            for batch in loader:
                yield batch["image"]

    stream = forever()
    return lambda: [next(stream) for _ in range(batches)]


def pair(device: torch.device, tiny: bool) -> tuple[Work, Work]:
    side, scenes, batches = (1024, 4, 1) if tiny else (6144, 200, 8)
    large, small = geo.folder(), geo.folder()
    geo.scene(large / "scene.tif", side)
    for i in range(scenes):
        geo.scene(small / f"{i:03d}.tif", SMALL, *divmod(i, 20))
    works = [[made(at, batches) for at in (large, small)] for made in (ours, peer)]
    mine, theirs = ((lambda both=both: [work() for work in both]) for both in works)
    return mine, theirs


ROW = Row(
    what="8 batches of 16 random windows of 128 x 128 cells, float32, from one COG of 6,144 x 6,144 cells with 4 bands, and 8 "
    "from 200 scenes of 256 x 256; loaded in this process. Synthetic scenes.",
    peer_name="torchgeo's RasterDataset and RandomGeoSampler",
    like_for_like=True,
    difference="Ours starts at multiples of 32 cells and also tells which cells are valid; the peer starts anywhere. Both have "
    "found their files before. Each keeps blocks that it has decoded, as it comes: ours up to 1 GiB, the peer up to GDAL's "
    "5 % of the machine's memory.",
    target=0.33,
    make=pair,
)
