"""The frame: folders of pictures and records in, manifest out; the command line on wrong requests."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unlabeled.core.cli.main import app
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts import RequestError
from unlabeled.core.curate.pictures import decode, plain, read_folder, reduced
from unlabeled.core.curate.records import coarse
from unlabeled.core.curate.run import curate


def bomb() -> bytes:
    """A PNG that says 60,000 x 60,000."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, np.ndarray]) -> Path:
    """8 pictures: 2 of them copies, in 3 folders."""
    root = tmp_path / "data"
    for name in ("cats", "cups", "deep/er"):
        (root / name).mkdir(parents=True)
    cat, cup = Image.fromarray(photos["chelsea.png"]), Image.fromarray(photos["coffee.png"])
    cat.save(root / "cats/cat.png")
    cat.save(root / "cats/cat.bmp")
    cat.save(root / "cats/small.jpg", quality=50)
    cup.save(root / "cups/cup.webp", lossless=True)
    for name in ("moon", "coins", "grass"):
        Image.fromarray(photos[f"{name}.png"]).convert("L").save(root / f"deep/er/{name}.tif")
    Image.fromarray(photos["page.png"]).save(root / "page.gif")
    return root


def rows(out: Path) -> dict[str, dict]:
    return {r["key"]: r for r in pq.read_table(out / "manifest.parquet").to_pylist()}


def test_manifest_says_what_and_why(folder: Path, tmp_path: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    report = curate(folder, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert {k for k, r in found.items() if not r["kept"]} == {"cats/cat.png", "cats/small.jpg"}
    exact, near = found["cats/cat.png"], found["cats/small.jpg"]
    assert (exact["step"], exact["reason"], exact["like"]) == ("duplicates", "the same content", "cats/cat.bmp")
    assert (near["step"], near["reason"], near["like"]) == ("duplicates", "a near copy", "cats/cat.bmp")
    assert exact["score"] == 1.0 and 0.9 < near["score"] < 1
    assert exact["sha256"] == found["cats/cat.bmp"]["sha256"] != near["sha256"]
    assert found["cats/cat.bmp"]["group"] == exact["group"] != found["page.gif"]["group"]
    assert [(s["name"], s["in"], s["out"]) for s in report["steps"]] == [("reading", 8, 8), ("duplicates", 8, 6)]
    assert json.loads((tmp_path / "out/curation.json").read_text()) == report
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before
    curate(folder, tmp_path / "again")
    assert (tmp_path / "again/manifest.parquet").read_bytes() == (tmp_path / "out/manifest.parquet").read_bytes()


def test_steps_in_order_on_what_is_kept(folder: Path, tmp_path: Path) -> None:
    report = curate(
        folder,
        tmp_path / "out",
        ["duplicates", "redundancy"],
        {"redundancy": {"limit": 64}, "duplicates": {"distance": 6}},
    )
    # of three exact and near copies one is left; then one of each of four folders
    assert [(s["in"], s["out"]) for s in report["steps"]] == [(8, 8), (8, 6), (6, 4)]
    assert report["steps"][2]["options"]["limit"] == 64


def test_bad_files_are_named(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = (folder / "cats/cat.png").read_bytes()
    (folder / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("no picture")
    (folder / "bomb.png").write_bytes(bomb())
    (folder / "out.png").symlink_to(__file__)
    (folder / "linked").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    (folder / "notes.txt").write_text("left alone")
    (folder / ".hidden.png").write_bytes(good)
    (folder / "bare").write_bytes(good)  # a name without a suffix is tried
    assert run(app, ["curate", str(folder), "-o", str(tmp_path / "out")]) == 3
    assert "7 of 16 items cannot be read, more than --max-bad 0.01 allows" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert run(app, ["curate", str(folder), "-o", str(tmp_path / "out"), "--max-bad", "0.5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ignored"] == 2
    reasons = {k: r["reason"] for k, r in rows(tmp_path / "out").items() if r["step"] == "reading"}
    assert reasons == {
        "bomb.png": "bomb.png says that it is larger than 178,956,970 pixels",
        "cut.png": "cut.png cannot be decoded: image file is truncated",
        "empty.jpg": "empty.jpg is empty",
        "linked": "linked is a link to a folder, which is not followed; name that folder itself",
        "out.png": "out.png is a link out of the folder",
        "pipe.png": "pipe.png is no file that can be read",
        "text.png": "text.png is no picture, or of a format that is not read here",
    }
    assert rows(tmp_path / "out")["cats/cat.bmp"]["like"] == "bare"  # of equal content the first key


def test_wrong_requests(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    (tmp_path / "e.parquet").write_text("no parquet")
    out = str(tmp_path / "out")
    for words, said in [
        ([tmp_path / "nothing", "-o", out], "no such folder"),
        ([tmp_path / "none", "-o", out], "no picture in it"),
        ([folder / "page.gif", "-o", out], "is a file; name its folder"),
        ([folder, "-o", tmp_path / "full"], "exists; choose another folder"),
        ([folder, "-o", folder / "out"], "lies inside the data folder"),
        ([folder, "-o", out, "duplicate"], "'duplicate' is unknown, did you mean 'duplicates'?"),
        ([folder, "-o", out, "visual_atoms"], "'visual_atoms' is unknown"),
        ([folder, "-o", out, "duplicates", "duplicates"], "is named twice"),
        ([folder, "-o", out, "distance=3"], "'distance=3' is not step.option=value"),
        ([folder, "-o", out, "duplicates.distanc=3"], "distanc: 'distanc' is unknown, did you mean 'distance'?"),
        ([folder, "-o", out, "redundancy.limit=3"], "redundancy has a setting, but is not among the steps"),
        ([folder, "-o", out, "--option", "a=1"], "--option is for the reader of a domain"),
        ([folder, "-o", out, "--domain", "moon"], "the domain 'moon' is not installed"),
        ([folder, "-o", out, "duplicates", "duplicates.by=[embedding]"], "duplicates needs embeddings"),
        ([folder, "-o", out, "--embeddings", tmp_path / "e.parquet"], "holds no columns key and embedding"),
        ([folder, "-o", out, "--embeddings", tmp_path / "f.parquet"], "no such file"),
    ]:
        assert run(app, ["curate", *map(str, words)]) == 2, words
        found = capsys.readouterr().err
        assert said in " ".join(found.split()), (words, found)
        assert not (tmp_path / "out").exists()


def test_embeddings_by_file(folder: Path, tmp_path: Path) -> None:
    """Rows of one key are averaged: (1, 0) and (0, 1) of cat.png make (.5, .5), which is at cosine 1 of cat.bmp's (1, 1)."""
    import pyarrow as pa

    keys = [*read_folder(folder).keys, "cats/cat.png", "elsewhere"]
    values = np.eye(16, dtype=np.float32)[: len(keys)]
    values[keys.index("cats/cat.bmp")] = np.eye(16)[0] + np.eye(16)[len(keys) - 2]
    values[keys.index("cats/cat.png")] = np.eye(16)[0]
    table = pa.table({"key": keys, "embedding": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), 16)})
    pq.write_table(table, tmp_path / "e.parquet")
    settings = {"duplicates": {"by": ["embedding"], "content": False}}
    curate(folder, tmp_path / "out", settings=settings, embeddings=tmp_path / "e.parquet")
    found = rows(tmp_path / "out")
    gone = {k: r["like"] for k, r in found.items() if not r["kept"]}
    assert gone == {"cats/cat.png": "cats/cat.bmp"}
    pq.write_table(table.slice(1), tmp_path / "f.parquet")
    with pytest.raises(RequestError, match=r"gives 1 of 8 items no embedding, as 'cats/cat.bmp'"):
        curate(folder, tmp_path / "other", settings=settings, embeddings=tmp_path / "f.parquet")


def test_modes_of_pictures(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(256, dtype=np.uint8), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "8.png")
    Image.fromarray(ramp.astype(np.uint16) * 256).save(tmp_path / "16.png")
    Image.fromarray(ramp.astype(np.uint16) * 16).save(tmp_path / "12.tif")  # 12 of 16 bits are in use
    Image.fromarray(ramp.astype(np.float32) / 255).save(tmp_path / "float.tif")
    for name in ("8.png", "16.png", "12.tif", "float.tif"):
        assert np.abs(np.asarray(plain(decode(tmp_path / name, name))).astype(int) - ramp).max() <= 1, name
    clear = Image.fromarray(np.zeros((4, 4, 4), np.uint8))  # transparent black is shown on white
    assert np.asarray(plain(clear)).min() == 255
    turned = Image.fromarray(ramp)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert decode(tmp_path / "turned.jpg", "turned.jpg").size == (64, 256)
    assert reduced(Image.new("RGB", (4096, 100))).shape == (25, 1024, 3)


def test_coarse_means() -> None:
    """Cells of 1.5 values: (1 + .5 * 3) / 1.5 and (.5 * 3 + 5) / 1.5; more cells than values repeat them."""
    assert np.allclose(coarse(np.array([1, 3, 5], np.float32), (2,)), [2.5 / 1.5, 6.5 / 1.5])
    assert np.allclose(coarse(np.array([1, 3], np.float32), (4,)), [1, 1, 3, 3])
    x = np.random.default_rng(0).random((6, 8, 4), dtype=np.float32)
    assert np.allclose(coarse(x, (3, 2, 2)), x.reshape(3, 2, 2, 4, 2, 2).mean((1, 3, 5)), atol=1e-6)
