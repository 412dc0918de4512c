"""Whole or not at all."""

from pathlib import Path

import pytest

from unlabeled.core.files import folder_atomic, write_atomic, write_json


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"a": 1})

    def fail(temp: Path) -> None:
        temp.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomic(file, fail)
    assert file.read_text() == '{\n  "a": 1\n}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    for text in ("first", "second"):
        with folder_atomic(folder) as temp:
            (temp / "x").write_text(text)
    with pytest.raises(ValueError, match="stop"), folder_atomic(folder) as temp:
        (temp / "x").write_text("third")
        raise ValueError("stop")
    assert (folder / "x").read_text() == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
