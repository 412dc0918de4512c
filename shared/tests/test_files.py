"""Whole or not at all."""

from pathlib import Path

import pytest

from unlabeled.core.contracts import RequestError
from unlabeled.core.files import folder_atomic, free, free_file, write_atomic, write_json


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


def test_a_place_that_cannot_be_written_shows_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "empty").mkdir()
    for fine in (tmp_path / "new", tmp_path / "a" / "b", tmp_path / "empty"):
        free(fine)
    free_file(tmp_path / "new.csv")
    for check, path, says in (
        (free, tmp_path, "exists; choose another folder"),
        (free, tmp_path / "file", "exists; choose another folder"),
        (free, tmp_path / "file" / "m", "file is a file; choose another folder"),
        (free_file, tmp_path / "file", "exists; choose another name"),
        (free_file, tmp_path / "empty", "exists; choose another name"),
        (free_file, tmp_path / "none" / "a.csv", "there is no folder"),
        (free_file, tmp_path / "file" / "a.csv", "there is no folder"),
    ):
        with pytest.raises(RequestError, match=says):
            check(path)
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the tests may run as root, who may write anywhere
    for check in (free, free_file):
        with pytest.raises(RequestError, match="is read-only here; choose another place"):
            check(tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "file"]
