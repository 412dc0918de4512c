"""What may not be told is not told, and sections say why they are empty."""

import numpy as np

from unlabeled.core.data.manifest import Manifest, Row
from unlabeled.core.evaluation.look import Look, read, save, spread_out
from unlabeled.core.files import without_folders
from unlabeled.core.report.facts import curve_section, map_section, nameless, pathless, picture_section, quarantine
from unlabeled.core.training.curves import curves


def row(file, status="ok", reason=""):
    return Row(file.removesuffix(".csv"), file, 0, "0123456789abcdef", status, reason, (), {}, "")


def test_recipes_lose_their_folders():
    given = {
        "data": {"path": "/home/jane doe/scans"},
        "start": "timm:vit_tiny_patch16_224.augreg_in21k",
        "study": {"labels": "~/l.csv", "starts": ["dinov2:/srv/w.pth", "../runs/a/bundle", "timm:hf-hub:org/name"]},
        "units": ["m/s^2", 1],
    }
    assert pathless(given) == {
        "data": {"path": "scans"},
        "start": "timm:vit_tiny_patch16_224.augreg_in21k",
        "study": {"labels": "l.csv", "starts": ["dinov2:w.pth", "bundle", "timm:hf-hub:org/name"]},
        "units": ["m/s^2", 1],
    }


def test_texts_lose_their_folders():
    for text, plain in {
        "/home/jane/data/x.csv: bad": "x.csv: bad",
        r"no 'C:\Users\jane\w.pt' there": "no 'w.pt' there",
        "at (/tmp/a/b), in m/s^2, 3/4": "at (b), in m/s^2, 3/4",
        "dinov2:/a/b/w.safetensors": "dinov2:w.safetensors",
    }.items():
        assert without_folders(text) == plain


def test_files_are_named_by_their_row():
    manifest = Manifest((row("jane/night-1.csv"), row("night-1.csv"), row("night.csv", "quarantined", "x")))
    reason = (
        "night-1.csv: its key 'night-1' is also that of jane/night-1.csv (/data/jane/night-1.csv); night.csv tonight"
    )
    assert nameless(reason, manifest) == "row 1: its key 'row 1' is also that of row 0 (row 0); row 2 tonight"
    table = quarantine(Manifest((row("a.csv"), row("b.csv", "quarantined", "b.csv holds no rows"))))[-1]
    assert table.rows == [("1", "row 1 holds no rows")]


def test_a_look_is_kept_and_read(tmp_path):
    look = Look(
        np.array([[0.0, 1.0], [2.0, 3.0]]),
        np.array([0.5, 0.25]),
        np.array(["ab", "cd"]),
        np.array([0, -1]),
        ("up",),
        {"x.original": np.ones((1, 2, 3))},
        {"labels": "none"},
    )
    save(tmp_path / "look.npz", look)
    again = read(tmp_path / "look.npz")
    for name in ("points", "share", "group", "label"):
        np.testing.assert_array_equal(getattr(again, name), getattr(look, name))
    assert (again.classes, again.missing) == (("up",), {"labels": "none"})
    np.testing.assert_array_equal(again.pictures["x.original"], np.ones((1, 2, 3)))
    assert [p.name for p in tmp_path.iterdir()] == ["look.npz"]


def test_some_are_spread_out():
    # 4 of 10: 0, 3, 6, 9; never more than there are
    assert spread_out(10, 4).tolist() == [0, 3, 6, 9]
    assert spread_out(3, 4).tolist() == [0, 1, 2]


def said(section):
    return " ".join(str(block) for block in section.blocks)


def test_sections_say_why_they_are_empty():
    nothing = Look(np.zeros((0, 2)), np.zeros(2), np.zeros(0, str), np.zeros(0, int), missing={"map": "no memory"})
    assert "There is no map: no memory." in said(map_section(nothing, "x"))
    assert "There is no map: no file." in said(map_section(None, "no file"))
    assert "There are none: no file." in said(picture_section(None, "no file"))


def test_pictures_of_planes_are_pixels_and_of_series_lines():
    x = np.zeros((1, 1, 4, 5))
    pictures = {f"x.{kind}": x for kind in ("original", "masked", "predicted")}
    flat = Look(np.zeros((1, 2)), np.zeros(2), np.array(["a"]), np.array([-1]), pictures=pictures)
    assert said(picture_section(flat, "")).count("data:image/png;base64,") == 3
    series = {name: np.arange(5.0)[None, None] for name in pictures}
    lines = Look(np.zeros((1, 2)), np.zeros(2), np.array(["a"]), np.array([-1]), pictures=series)
    assert said(picture_section(lines, "")).count('<path class="line') == 3


def test_any_number_of_a_run_becomes_a_curve():
    lines = [
        {"step": i, "epoch": 0, "loss": 1.0 - i, "parts": {"a": 1.0 - i}, "lr": 0.1, "health": {"teacher_gap": i}}
        for i in range(3)
    ]
    section = curve_section(curves(lines))
    grid, _, more = section.blocks
    # the only part is the loss again, and a constant is no picture, though it is in the table
    assert [f.caption for f in grid.figures] == ["Loss", "Teacher gap, health"]
    assert [row[0] for row in more.blocks[0].rows] == ["Loss", "Learning rate", "Teacher gap, health"]
    assert more.blocks[0].rows[0] == ("Loss", "1", "-1", "1", "-1")
