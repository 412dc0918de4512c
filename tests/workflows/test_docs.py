"""What the documents say is run as it stands: every block of Python, YAML and shell, in an empty folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TIMEOUT = 280


def section(document: str, title: str) -> list[tuple[str, str, str]]:
    """(language, file or "", text) of every block below the heading `## title`."""
    parts = re.split(r"^## (.+)$", (ROOT / document).read_text(), flags=re.MULTILINE)
    return BLOCK.findall(parts[parts.index(title) + 1])


def unpack(blocks: list[tuple[str, str, str]], folder: Path) -> None:
    """The files that blocks name, and what `pip install -e .` makes of the pyproject.toml among them."""
    for _, name, text in blocks:
        if name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    info = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = dict(project["entry-points"])
    lines = [
        line for group, names in groups.items() for line in (f"[{group}]", *(f"{k} = {v}" for k, v in names.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for name, target in project.get("scripts", {}).items():
        module, _, function = target.partition(":")
        script = folder / "bin" / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(f"#!{sys.executable}\nfrom {module} import {function}\n{function}()\n")
        script.chmod(0o755)


def run(command: list[str], folder: Path, **more: str) -> str:
    """What the command prints, run in `folder` with the distribution there installed."""
    path = os.pathsep.join([str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PYTHONPATH": str(folder), "PATH": path, "OMP_NUM_THREADS": "1", **more}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def shell(blocks: list[tuple[str, str, str]], folder: Path) -> list[str]:
    """What each line of the shell blocks prints; installing is what `unpack` did."""
    lines = [line for language, _, text in blocks if language == "sh" for line in text.splitlines()]
    assert lines
    return [run(["bash", "-c", line], folder) for line in lines if line and not line.startswith("pip install")]


def passed(text: str) -> int:
    (count,) = re.findall(r"(\d+) passed", text)
    return int(count)


@pytest.mark.slow
def test_how_to_add_a_method(tmp_path: Path) -> None:
    blocks = section("shared/README.md", "How to add a method")
    unpack(blocks, tmp_path)
    first, again, listed = shell(blocks, tmp_path)
    assert passed(first) == 1 and passed(again) >= 6
    assert (tmp_path / "curves" / "Denoise.json").is_file()
    assert "denoise" in listed


@pytest.mark.slow
def test_how_to_add_a_domain_and_the_example_in_python(tmp_path: Path) -> None:
    blocks = section("shared/README.md", "How to add a domain")
    unpack(blocks, tmp_path)
    tested, helped = shell(blocks, tmp_path)
    assert passed(tested) >= 10
    assert "pretrain" in helped

    # the example in Python, with a recipe of this domain
    for i in range(8):
        hours = np.arange(400)
        (tmp_path / "recordings").mkdir(exist_ok=True)
        np.savetxt(tmp_path / "recordings" / f"station{i % 4}_{i}.txt", np.sin(2 * np.pi * hours / 12.42 + i))
    run(["unlabeled-tides", "init", "recordings", "-o", "recipe.yaml"], tmp_path)
    example(tmp_path, "shared/README.md", "recordings")


@pytest.mark.slow
def test_the_example_of_biosignal(tmp_path: Path) -> None:
    t = np.arange(1000) / 50
    (tmp_path / "my-recordings").mkdir()
    for i in range(8):
        values = np.stack([t, np.sin(t + i), np.cos(t * (1 + i)), np.ones_like(t)], 1)
        header = "time,acc_x [g],acc_y [g],acc_z [g]"
        np.savetxt(tmp_path / "my-recordings" / f"r{i}.csv", values, "%.3f", ",", header=header, comments="")
    rows = "".join(f"r{i}.csv,person {i % 4}\n" for i in range(8))
    (tmp_path / "my-recordings" / "recordings.csv").write_text("file,subject\n" + rows)
    run(["unlabeled-biosignal", "init", "my-recordings", "-o", "recipe.yaml"], tmp_path)
    example(tmp_path, "packages/biosignal/README.md", "my-recordings")


def example(folder: Path, document: str, data: str) -> None:
    """Run the section `In Python` of a document, on a recipe of few steps, and look at what it leaves."""
    import pyarrow.parquet as pq

    recipe = folder / "recipe.yaml"
    text = re.sub(r"^max_steps: \d+", "max_steps: 3", recipe.read_text(), flags=re.MULTILINE)
    recipe.write_text(text)
    (code,) = [text for language, _, text in section(document, "In Python") if language == "python"]
    lines = [line for line in code.splitlines() if line and not line.startswith(("from ", "import "))]
    assert len(lines) <= 5
    run([sys.executable, "-c", code], folder)
    table = pq.read_table(folder / "embeddings.parquet")
    assert {"key", "group", "embedding"} <= set(table.column_names)
    assert {key.split("/")[-1] for key in table["key"].to_pylist()} == {
        p.stem for p in (folder / data).glob("[rs]*[0-9].*")
    }
