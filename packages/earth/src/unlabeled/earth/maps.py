"""Maps: what a model says of every pixel of whole scenes, tile by tile, as COGs on the scenes' own grids."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from urllib.parse import quote

import numpy as np
import rasterio
import torch
from numpy.typing import NDArray

from unlabeled.core.contracts import BadInput, Incompatible, Input, Sample
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.loading import Collate
from unlabeled.core.downstream.loop import moved
from unlabeled.core.downstream.model import Model
from unlabeled.core.downstream.predict import codes
from unlabeled.core.downstream.write import Record
from unlabeled.earth.cog import Kind, classes, cog, created, probabilities
from unlabeled.earth.labels import reader_of, scene_key
from unlabeled.earth.scene import Scene
from unlabeled.earth.tile import Tile, Values, blended, spans

MAPS, PROBABILITIES = "maps", "probabilities"
AT_ONCE = 2**20  # cells in one batch of tiles


@dataclass(frozen=True)
class Tiling:
    """In cells: size of a tile, step from tile to tile, margin of its output that is dropped."""

    size: tuple[int, int]
    step: tuple[int, int]
    halo: int

    @classmethod
    def of(cls, model: Model, corpus: Corpus) -> Tiling:
        """The windows that the model was trained on, half a window apart where it has no stride.

        The outer eighth of a window is dropped, or less where the step leaves less.
        """
        about, spacing = model.about, next(iter(corpus.specs.values())).spacing
        if about.window is None or spacing is None:
            size = np.max([corpus.shape(i) for i in range(len(corpus))], axis=0)
            step = np.maximum(1, size // 2)
        else:
            stride = about.stride or tuple(w / 2 for w in about.window)
            size, step = (np.maximum(1, np.round(np.divide(of, spacing)).astype(int)) for of in (about.window, stride))
            step = np.minimum(step, size)
        halo = int(np.minimum(size // 8, (size - step) // 2).min())
        return cls((int(size[0]), int(size[1])), (int(step[0]), int(step[1])), halo)


def segment(
    model: Model, corpus: Corpus, out: Path, formats: Sequence[str], update: Callable[[int, int], None]
) -> Iterator[Record]:
    """Write `maps/KEY.tif` for each file, and `probabilities/KEY.tif` where that is one of the formats.

    A cell without data in the scene is nodata. Raises BadInput for a file without a CRS or one that breaks while it is read,
    Incompatible where the contract brings a scene to another grid; both name the file.
    """
    first = {row.file: i for i, row in reversed(list(enumerate(corpus.rows)))}
    scenes = {i: reader_of(corpus).scene(corpus.file(corpus.rows[i])) for i in sorted(first.values())}
    for i, scene in scenes.items():
        if scene.place.crs is None:
            raise BadInput(
                f"{corpus.rows[i].file} has no CRS, so its map would lie nowhere; give it one, or leave it out"
            )
    tiling = Tiling.of(model, corpus)
    total = sum(len(spans(s.place.height, tiling.size[0], tiling.step[0], tiling.halo)) for s in scenes.values())
    done = 0
    for i, scene in scenes.items():
        row = corpus.rows[i]
        key = scene_key(corpus, row)
        name = f"{quote(key, safe=' ()#')}.tif"
        for _ in _write(model, corpus, i, scene, tiling, out, name, PROBABILITIES in formats):
            done += 1
            update(done, total)
        extent = tuple(n * s for n, s in zip((scene.place.height, scene.place.width), scene.place.spacing, strict=True))
        groups = {other.group for other in corpus.rows if other.file == row.file}
        yield Record(key, groups.pop() if len(groups) == 1 else "", extent, mask=f"{MAPS}/{name}")


def _write(
    model: Model, corpus: Corpus, i: int, scene: Scene, tiling: Tiling, out: Path, name: str, with_probabilities: bool
) -> Iterator[None]:
    """One map, one row of windows after the other."""
    known = model.about.classes
    names = dict(zip(codes(known), known, strict=True))
    value = np.array(list(names))
    kinds: dict[str, Kind] = {MAPS: classes(names)}
    if with_probabilities:
        kinds[PROBABILITIES] = probabilities(known)
    strips = Strips(model, corpus, i, scene)
    shape = scene.place.height, scene.place.width
    with ExitStack() as stack:
        to = {}
        for folder, kind in kinds.items():
            (out / folder).mkdir(exist_ok=True)
            to[folder] = stack.enter_context(cog(out / folder / name, scene.place, kind, tags(model, corpus)))
        for rows, p in blended(shape, tiling.size, tiling.step, tiling.halo, len(known), strips.outputs):
            valid = strips.valid(rows)
            window = ((rows.start, rows.stop), (0, shape[1]))
            code = np.where(valid, value[p.argmax(0)], kinds[MAPS].nodata)
            to[MAPS].write(code.astype(kinds[MAPS].dtype), 1, window=window)
            if with_probabilities:
                to[PROBABILITIES].write(np.where(valid, p, np.float32(np.nan)), window=window)
            yield


class Strips:
    """A scene under the contract, read in strips as high as a row of windows."""

    def __init__(self, model: Model, corpus: Corpus, i: int, scene: Scene) -> None:
        self.model, self.corpus, self.i, self.scene = model, corpus, i, scene
        self.top = 0
        self.seen: NDArray[np.bool_] = np.zeros((0, scene.place.width), bool)
        self.collate = Collate(corpus.specs)
        (self.name,) = corpus.specs

    def valid(self, rows: slice) -> NDArray[np.bool_]:
        """(h, W) where these rows of the last strip hold data."""
        return self.seen[rows.start - self.top : rows.stop - self.top]

    @torch.inference_mode()
    def outputs(self, tiles: Sequence[Tile]) -> Iterable[tuple[Tile, Values]]:
        """Class probabilities of a row of tiles; those without any data are left out."""
        x = self._read(tiles[0].y.read)
        there = [t for t in tiles if self.seen[:, t.x.read].any()]
        device = next(self.model.parameters()).device
        self.model.eval()
        most = max(1, AT_ONCE // (self.seen.shape[0] * (tiles[0].x.stop - tiles[0].x.start)))
        for at in range(0, len(there), most):
            batch = self.collate([self._sample(x, t, n) for n, t in enumerate(there[at : at + most])])
            p = self.model(moved(batch, device).inputs).softmax(1).float().cpu().numpy()
            yield from zip(there[at : at + most], p, strict=True)

    def _sample(self, x: Input, tile: Tile, n: int) -> Sample:
        at = (slice(None), slice(None), tile.x.read)
        part = x.with_(data=x.data[at], valid=None if x.valid is None else x.valid[at])
        return Sample({self.name: part}, key="", group="", index=n, record=self.i)

    def _read(self, rows: slice) -> Input:
        file, place = self.corpus.rows[self.i].file, self.scene.place
        found = self.scene.read(rows, slice(0, place.width))
        x = self.corpus.held(self.i, Sample({self.name: found}, key=file, group="")).inputs[self.name]
        if x.shape != found.shape:
            raise Incompatible(
                f"{file} has cells of {' x '.join(f'{s:g}' for s in place.spacing)} {place.unit} and the model asks for "
                f"{' x '.join(f'{s:g}' for s in x.spacing or ())}; a map keeps its grid: set the reader's option resolution"
            )
        self.top = rows.start
        self.seen = np.ones(x.shape, bool) if x.valid is None else np.asarray(x.valid.any(0))
        return x


def tags(model: Model, corpus: Corpus) -> dict[str, str]:
    """What made a map: enough to tell two of them apart, and to make it again."""
    about, spec = model.about, next(iter(corpus.specs.values()))
    own = [f"{name} {version(name)}" for name in ("unlabeled-earth", "unlabeled-core", "rasterio")]
    return {
        "MODEL": f"{about.head.name} on {corpus.domain.name}, began from {about.start['start']}",
        "WEIGHTS_SHA256": f"encoder {about.sha256['encoder.safetensors']} head {about.sha256['head.safetensors']}",
        "NORMALISER": spec.normaliser.model_dump_json(),
        "BANDS": ",".join(spec.channels),
        "SOFTWARE": ", ".join([*own, f"GDAL {rasterio.__gdal_version__}"]),
        "CREATED": created(),
    }
