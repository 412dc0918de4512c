"""Checkpoints: round trip, refusal of what is broken or foreign, fallback, pruning."""

import hashlib
import logging
import pickle
from pathlib import Path

import pytest
import torch

from unlabeled.core.contracts import RunFailed
from unlabeled.core.testing.toys import Denoiser, identical, loader, recipe
from unlabeled.core.training import checkpoint
from unlabeled.core.training.fit import fit


def state(step: int) -> checkpoint.State:
    return {"step": step, "method": {"w": torch.full((50,), float(step))}, "failures": {7: (1, "broken")}}


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (10, 20, 30):
        checkpoint.save(tmp_path, state(step), keep=2)
    return tmp_path


def test_round_trip_and_only_the_newest_are_kept(folder: Path) -> None:
    assert [p.name for p in checkpoint.saved(folder)] == ["step-00000030.pt", "step-00000020.pt"]
    assert identical(checkpoint.newest(folder), state(30))
    assert names(folder) == ["step-00000020.pt", "step-00000030.pt"]  # no temp, no sidecar


def test_nothing_saved_yet_is_a_start_not_an_error(tmp_path: Path) -> None:
    assert checkpoint.newest(tmp_path / "checkpoints") is None


def test_strays_of_a_killed_save_are_removed(folder: Path) -> None:
    (folder / ".step-00000040.pt.99.tmp").write_bytes(b"half")
    checkpoint.newest(folder)
    assert not list(folder.glob(".*"))


def seal(data: bytes) -> bytes:
    """`data` with a right trailer, as someone who knows the format would forge it."""
    return data + checkpoint.MAGIC + hashlib.sha256(data).digest()


class Canary:
    """A pickle of this creates the file `path` where it is loaded without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return (open, (str(self.path), "w"))


DAMAGES = ["truncated", "trailer cut", "empty", "flipped", "wrong hash", "garbage", "pickle", "zip pickle", "step"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_and_the_one_before_is_used(
    folder: Path, damage: str, tmp_path_factory: pytest.TempPathFactory, caplog: pytest.LogCaptureFixture
) -> None:
    path = checkpoint.path_of(folder, 30)
    good = path.read_bytes()
    canary = tmp_path_factory.mktemp("canary") / "created"
    zipped = tmp_path_factory.mktemp("zip") / "x"
    torch.save({"step": 30, "x": Canary(canary)}, zipped)
    middle = len(good) // 2
    path.write_bytes(
        {
            "truncated": good[:middle],
            "trailer cut": good[:-1],
            "empty": b"",
            "flipped": good[:middle] + bytes([good[middle] ^ 1]) + good[middle + 1 :],
            "wrong hash": good[:-1] + bytes([good[-1] ^ 1]),
            "garbage": seal(b"not a checkpoint" * 9),
            "pickle": seal(pickle.dumps(Canary(canary))),
            "zip pickle": seal(zipped.read_bytes()),
            "step": checkpoint.path_of(folder, 20).read_bytes(),
        }[damage]
    )
    with pytest.raises(RunFailed, match="step-00000030"):
        checkpoint.read(path)
    with caplog.at_level(logging.WARNING):
        assert identical(checkpoint.newest(folder), state(20))
    assert "step-00000030.pt" in caplog.text
    assert (folder / "step-00000030.broken").exists()
    assert not canary.exists()


def test_the_canary_sings_where_care_is_left_out(tmp_path: Path) -> None:
    # proves that the test above could fail
    pickle.loads(pickle.dumps(Canary(tmp_path / "created"))).close()
    assert (tmp_path / "created").exists()


def test_all_broken_is_an_error_not_a_silent_restart(folder: Path) -> None:
    for path in checkpoint.saved(folder):
        path.write_bytes(b"x")
    with pytest.raises(RunFailed, match="start the run anew"):
        checkpoint.newest(folder)


def test_a_save_never_uses_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path / "does-not-exist"))
    checkpoint.save(tmp_path, state(1), keep=1)
    assert identical(checkpoint.newest(tmp_path), state(1))


def test_a_failing_write_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(data: dict[str, object], path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(folder, state(40), keep=2)
    assert names(folder) == ["step-00000020.pt", "step-00000030.pt"]


def test_a_checkpoint_of_an_older_version_is_named(tmp_path: Path) -> None:
    fit(Denoiser(), loader(), recipe(4), tmp_path, resume=False)
    path = checkpoint.saved(tmp_path / "checkpoints")[0]
    state = checkpoint.read(path)
    checkpoint.save(tmp_path / "checkpoints", {k: v for k, v in state.items() if k != "skips"}, keep=1)
    with pytest.raises(RunFailed, match="older version and lacks skips; go on with that version"):
        fit(Denoiser(), loader(), recipe(8), tmp_path, resume=True)
