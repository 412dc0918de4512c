"""Files -> Samples: scenes of any size, block by block."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unlabeled.core.contracts import BadInput, Input, Sample
from unlabeled.earth import checks, handles, offsets, products
from unlabeled.earth.bands import File
from unlabeled.earth.blocks import Block, blocks, side
from unlabeled.earth.groups import group
from unlabeled.earth.layers import open_scene
from unlabeled.earth.options import ReaderOptions
from unlabeled.earth.scene import Place, Scene

REMEMBERED = 1024  # scenes whose facts are kept


@dataclass(frozen=True)
class _Opened:
    """What is kept of a scene; side: of its blocks, in units of its CRS."""

    key: str
    scene: Scene
    side: float
    blocks: list[Block]


class Reader:
    """Reads scenes on the ground.

    One record is one block of a scene, or a whole small file: a Sample with the input `x`, (C, H, W), spacing (dy, dx) in
    m (deg, px), `valid` (1, H, W) where something is missing. Its key is the path relative to the folder, without the
    ending, and for a block #X_Y behind it: its place in the grid of blocks. Blocks without one valid cell are no records.
    """

    def __init__(self, options: ReaderOptions | None = None, root: Path | None = None) -> None:
        self.options = options or ReaderOptions()
        self._root = root.parent if root and root.is_file() else root
        self._scenes: OrderedDict[Path, _Opened] = OrderedDict()

    def files(self, root: Path) -> list[Path]:
        """One path for each scene below `root`, sorted; of a file, that file. Keys are relative to `root`."""
        if root.is_file():
            self._root = root.parent
            return [root] if root.suffix.lower() in products.SUFFIXES or root.name in products.PRODUCTS else []
        self._root = root
        found = products.listed(root, self.options.stack)
        only = self.options.only
        return [p for p in found if only is None or re.search(only, p.relative_to(root).as_posix())]

    def read(self, path: Path) -> Iterator[Sample]:
        """The records of one scene, one after the other.

        Raises BadInput in one sentence that names the file, the fault and the mend.
        """
        name, opened = self._name(path), self._opened(path)
        seen = False
        for part, block in enumerate(opened.blocks):
            x = opened.scene.read(block.rows, block.cols)
            if x.valid is not None and not x.valid.any():
                continue
            seen = True
            if self.options.check_range:
                checks.check_range(x, name)
            yield self._sample(opened, name, part, x, [*opened.scene.flags, *checks.flags(opened.scene, x)])
        handles.close({layer.path for layer in opened.scene.layers})  # a folder is read once, and may hold many
        if not seen:
            raise BadInput(f"{name}: it has no valid pixel; remove it, or correct options.nodata")

    def part(self, path: Path, part: int) -> Sample:
        """One record of a scene."""
        place = self.place(path, part)
        return self.window(path, part, (slice(0, place.height), slice(0, place.width)))

    def window(self, path: Path, part: int, region: tuple[slice, ...]) -> Sample:
        """The cells `region` of one record of a scene, without reading the rest."""
        opened = self._opened(path)
        block = self._block(path, part)
        rows, cols = (
            slice(of.start + at.start, min(of.start + at.stop, of.stop))
            for of, at in zip((block.rows, block.cols), region, strict=True)
        )
        return self._sample(opened, self._name(path), part, opened.scene.read(rows, cols))

    def scene(self, path: Path) -> Scene:
        """The image at `path`. Raises BadInput where there is none."""
        return self._opened(path).scene

    def place(self, path: Path, part: int) -> Place:
        """Where one record of a scene lies."""
        block = self._block(path, part)
        return self.scene(path).place.cut(block.rows, block.cols)

    def _block(self, path: Path, part: int) -> Block:
        found = self._opened(path).blocks
        if part >= len(found):
            raise BadInput(
                f"{self._name(path)} changed since it was scanned: it holds {len(found)} blocks, not {part + 1}"
            )
        return found[part]

    def _sample(self, opened: _Opened, name: str, part: int, x: Input, flags: Sequence[str] = ()) -> Sample:
        """One record. index: which part of its scene it is."""
        block = opened.blocks[part]
        return Sample(
            inputs={"x": x},
            key=opened.key + (f"#{block.x}_{block.y}" if len(opened.blocks) > 1 else ""),
            group=group(name, opened.key, opened.scene.place, block, opened.side, self.options),
            index=part,
            meta={"flags": list(flags)},
        )

    def _opened(self, path: Path) -> _Opened:
        if path not in self._scenes:
            key, scene = self._open(path)
            width = side(scene.place, self.options.block, self._name(path))
            self._scenes[path] = _Opened(key, scene, width, blocks(scene.place, width))
        self._scenes.move_to_end(path)
        while len(self._scenes) > REMEMBERED:
            self._scenes.popitem(last=False)
        return self._scenes[path]

    def _open(self, path: Path) -> tuple[str, Scene]:
        """The key of a scene, and the scene."""
        root, options, name = self._root_of(path), self.options, self._name(path)
        if path.name in products.PRODUCTS:
            spec, files = products.product(path, root)
            if options.spec and options.spec != spec:
                raise BadInput(
                    f"{name}: the product is of {spec.name}, options.sensor says {options.sensor}; correct it"
                )
            key = path.parent.relative_to(root).as_posix() if path.parent != root else root.name
            return key.removesuffix(".SAFE"), open_scene(files, name, options, spec, offsets.of_product(path, name))
        if options.stack:
            key, files = products.stacked(path, root, options.stack)
        else:
            key, files = path.relative_to(root).with_suffix("").as_posix(), [File(path, name)]
        return key, open_scene(files, name, options, options.spec)

    def _name(self, path: Path) -> str:
        return path.relative_to(self._root_of(path)).as_posix()

    def _root_of(self, path: Path) -> Path:
        """The folder given, or that of the file."""
        return self._root if self._root and path.is_relative_to(self._root) else path.parent
