"""report.html of a small run and a small study, made by the command line and opened in a real browser."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import socket
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.main import app
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts.domain import domain

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

SUBJECTS = ("mrs-alvarez", "mr-brand", "ms-cho", "mr-diaz")
CHANNELS = [f"{sensor}_{axis}" for sensor in ("acc [g]", "gyro [rad/s]") for axis in "xyz"]
RECIPE: dict[str, Any] = {
    "domain": "biosignal",
    "method": {"name": "mae", "mask_ratio": 0.5, "decoder": {"width": 16, "depth": 1, "heads": 2}},
    "encoder": {"name": "tokens", "width": 16, "depth": 1, "heads": 2, "patch": [20]},
    "views": [{"name": "crop", "seconds": 3.2}],
    "trainer": {"loop": "plain", "threads": 1, "tensorboard": False, "accelerator": "cpu"},
    "batch_size": 8,
    "max_steps": 12,
    "evaluation": {"window": [3.2]},
    "study": {
        "labels": "labels.csv",
        "budgets": [1, 1.0],
        "groups_per_fold": 2,
        "seeds": 1,
        "draws": 2,
        "lr_grid": [1.0e-3],
        "finetune_steps": 2,
        "starts": ["far/gone.safetensors"],
    },
}


def write(path: Path, seed: int) -> None:
    """12 s at 50 Hz: gravity on z, a movement whose pace is the class, noise. Synthetic."""
    rng = np.random.default_rng(seed)
    time = np.arange(600) / 50
    values = np.sin(2 * np.pi * (0.5 + seed % 2) * time)[:, None] * 0.3 + rng.normal(0, 0.05, (600, 6))
    values[:, 2] += 1.0
    names = [f"{c.partition(' ')[0]}_{c[-1]} {c.partition(' ')[2][:-2]}" for c in CHANNELS]
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["time", *names])
        out.writerows([[f"{t:.4f}", *row] for t, row in zip(time, np.round(values, 5).tolist(), strict=True)])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folder of files, a run and a study of it."""
    root = tmp_path_factory.mktemp("private-folder-of-dr-elm")
    data = root / "recordings"
    data.mkdir()
    labels, subjects = ["key,label"], ["file,subject"]
    for s, subject in enumerate(SUBJECTS):
        for k in range(4):
            write(data / f"{subject}-{k}.csv", 4 * s + k)
            labels.append(f"{subject}-{k},{('slow', 'fast')[k % 2]}")
            subjects.append(f"{subject}-{k}.csv,{subject}")
    (data / f"{SUBJECTS[0]}-broken.csv").write_text("time,acc_x [g]\n")
    subjects.append(f"{SUBJECTS[0]}-broken.csv,{SUBJECTS[0]}")
    (data / "recordings.csv").write_text("\n".join(subjects) + "\n")
    (root / "labels.csv").write_text("\n".join(labels) + "\n")
    given = {"path": "recordings", "window": [4.0], "stride": [2.0], "hold_out": 0.25, "max_bad_fraction": 0.1}
    (root / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "data": given}))
    recipe = str(root / "recipe.yaml")
    verbs = build(domain("biosignal"))
    assert run(verbs, ["pretrain", recipe, "-o", str(root / "run")]) == 0
    assert run(verbs, ["study", recipe, "data.hold_out=0", "-o", str(root / "study")]) == 0
    return {"data": data, "run": root / "run", "study": root / "study"}


KINDS = ("run", "study")


def dom(page: Path, log: Path, *more: str) -> tuple[str, str]:
    """The page as the browser has it after loading, and what it wrote to standard error."""
    assert CHROMIUM is not None
    words = [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={log.parent / 'profile'}"]
    words += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run"]
    words += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    words += [
        "--enable-logging=stderr",
        f"--log-net-log={log}",
        "--net-log-capture-mode=Everything",
        "--hide-scrollbars",
    ]
    done = subprocess.run([*words, *more, page.as_uri()], capture_output=True, text=True, timeout=200, check=True)
    return done.stdout, done.stderr


def asked(log: Path) -> set[str]:
    """The origins that a page asked something of; what the browser asks on its own account has no origin as initiator."""
    text = log.read_text().rstrip().rstrip(",")
    try:
        events = json.loads(text)["events"]
    except json.JSONDecodeError:  # a browser that ends at once leaves the list open
        events = json.loads(text + "]}")["events"]
    found = [e["params"] for e in events if "initiator" in e.get("params", {})]
    return {"/".join(p["url"].split("/")[:3]) for p in found if p["initiator"] != "not an origin"}


class Seen(HTMLParser):
    """What the tests ask of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag and kind in [*(a.get("class") or "").split(), ""]]


@browser
@pytest.mark.parametrize("kind", KINDS)
def test_the_browser_draws_it_and_asks_nobody(kind: str, made: dict[str, Path], tmp_path: Path) -> None:
    text, said = dom(made[kind] / "report.html", tmp_path / "net.json", "--dump-dom")
    assert "CONSOLE" not in said, said
    assert asked(tmp_path / "net.json") == set()
    seen = Seen(text)
    lines = seen.all("path", "line")
    assert len(lines) >= (10 if kind == "run" else 3)
    numbers = [float(x) for a in seen.all("path") for x in re.findall(r"[-\d.]+(?:e-?\d+)?", a["d"] or "")]
    assert numbers and all(math.isfinite(x) and abs(x) < 1000 for x in numbers)
    assert not re.search(r"\b(nan|inf|undefined)\b", text, re.IGNORECASE)
    assert len(seen.all("circle", "dot")) >= 20  # the map: 3 records of 3 groups give 45 items, a study's has more
    assert all(a.get("aria-label") for a in seen.all("svg")) and all(a.get("alt") for a in seen.all("img"))
    assert seen.all("html")[0]["lang"] == "en" and not seen.all("script")
    anchors = {a["href"] for a in seen.all("a")}
    assert anchors == {f"#{a['id']}" for a in seen.all("section")}


@browser
def test_the_watch_over_requests_sees_one(made: dict[str, Path], tmp_path: Path) -> None:
    """A page without its policy and with a picture from elsewhere: both are noticed."""
    text = (made["run"] / "report.html").read_text()
    with socket.socket() as closed:  # a port where nobody listens
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        picture = f'<img src="{url}/x.png" alt="">'
        (tmp_path / "loose.html").write_text(
            re.sub(r"<meta http-equiv.*?>", "", text).replace("<main>", f"<main>{picture}")
        )
        (tmp_path / "strict.html").write_text(text.replace("<main>", f"<main>{picture}"))
        _, said = dom(tmp_path / "loose.html", tmp_path / "net.json", "--dump-dom")
        assert asked(tmp_path / "net.json") == {url}
        # and with the policy the browser refuses to ask, and says so
        _, said = dom(tmp_path / "strict.html", tmp_path / "strict.json", "--dump-dom")
        assert asked(tmp_path / "strict.json") == set() and "CONSOLE" in said


@browser
@pytest.mark.parametrize("width", [390, 1100])
@pytest.mark.parametrize("kind", KINDS)
def test_it_shows_something_on_a_phone_and_on_a_screen(
    kind: str, width: int, made: dict[str, Path], tmp_path: Path
) -> None:
    shot = tmp_path / "shot.png"
    dom(made[kind] / "report.html", tmp_path / "net.json", f"--screenshot={shot}", f"--window-size={width},1600")
    with Image.open(shot) as image:
        pixels = np.array(image.convert("L"), np.float64)
    # ink on paper: some of it, and not most of it, down to the last quarter of the screen
    paper = np.median(pixels)
    ink = np.abs(pixels - paper) > 40
    assert 0.005 < ink.mean() < 0.5
    assert ink[-400:].any()
    # nothing runs over the right edge
    assert not ink[:, -8:].any()


@pytest.mark.parametrize("kind", KINDS)
def test_it_tells_nothing_private(kind: str, made: dict[str, Path]) -> None:
    folder = made[kind]
    content = (folder / "report.html").read_bytes()
    for private in (*SUBJECTS, str(made["data"].parent), "private-folder-of-dr-elm", socket.gethostname()):
        assert private.encode() not in content, private
    # the file that was refused is told by its row, which is in the manifest
    assert b"in quarantine" in content and re.search(rb"row \d+: there is a header and no row", content)
    if kind == "run":  # the picture's arrays say no more than the page
        for private in (*SUBJECTS, str(made["data"].parent)):
            with np.load(folder / "look.npz") as arrays:
                assert all(private not in str(arrays[name].tolist()) for name in arrays.files)


def test_the_run_says_what_its_files_say(made: dict[str, Path]) -> None:
    folder = made["run"]
    page = " ".join(" ".join(Seen((folder / "report.html").read_text()).text).split())
    data = json.loads((folder / "bundle/bundle.json").read_text())
    assert f"12 steps of 8 items, drawn from {data['data']['items']} items of 12 records of 3 groups" in page
    assert "; held out: 1 group (" in page
    losses = [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert f"The loss went from {losses[0]:.4g} to {losses[-1]:.4g}" in page  # a tenth of 12 steps is one
    for part in (
        "Embedding map",
        "Reconstructions",
        "original",
        "acc_x",
        "What was not done",
        data["versions"]["torch"],
    ):
        assert part in page
    assert data["data"]["sha256"] in page


def test_the_study_says_its_verdict_first(made: dict[str, Path]) -> None:
    folder = made["study"]
    page = " ".join(" ".join(Seen((folder / "report.html").read_text()).text).split())
    found = json.loads((folder / "study.json").read_text())
    for part in ("against_random", "against_simple", "against_off_the_shelf"):
        assert page.index(found["verdict"][part]["word"]) < page.index("Label efficiency")
    for start, scores in found["scores"].items():
        for s in scores.values():
            assert f"{s['mean']:.3f} [{s['low']:.3f}, {s['high']:.3f}]" in page, start
    for d in found["differences"]:
        assert f"{d['a']} − {d['b']}" in page
        assert f"{d['mean']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]" in page
    assert "gone.safetensors was not compared: " in page


def test_the_page_is_written_again_by_the_command(made: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    for kind in KINDS:
        before = (made[kind] / "report.html").read_bytes()
        (made[kind] / "report.html").unlink()
        assert run(app, ["report", str(made[kind])]) == 0
        assert (made[kind] / "report.html").read_bytes() == before
    assert run(app, ["report", str(tmp_path)]) == 2
    assert "is no run and no study" in capsys.readouterr().err
