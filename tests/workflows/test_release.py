"""`tools/release`: every check on wheels made to fail it, and once all of them on ours."""

from __future__ import annotations

import subprocess
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
CORE = "Metadata-Version: 2.4\nName: unlabeled-core\nVersion: 0.1.0\nLicense-Expression: MIT\nRequires-Python: >=3.11\n"
TOY = CORE.replace("core", "toy") + "Requires-Dist: unlabeled-core (>=0.1)\n"
OURS = {"unlabeled-core", "unlabeled-toy", "unlabeled-other"}


@pytest.fixture(autouse=True)
def releasing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`import releasing` as `tools/release` makes it possible."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    yield


def made(folder: Path, metadata: str, files: dict[str, str], *, source: dict[str, str] | None = None) -> Any:
    """A wheel of these files, and the folder that it claims to be built from."""
    from releasing.wheels import Wheel

    name = Parser().parsestr(metadata)["Name"].replace("-", "_")
    (folder / name).mkdir(parents=True)
    for at, text in (files if source is None else source).items():
        (folder / name / "src" / at).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / "src" / at).write_text(text)
    info = f"{name}-0.1.0.dist-info"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    (folder / name / "pyproject.toml").write_text('[project.scripts]\ntoy = "unlabeled.toy:main"\n')
    about = {"METADATA": metadata, "WHEEL": tags, "licenses/LICENSE": "free", "RECORD": ""}
    about["entry_points.txt"] = "[console_scripts]\ntoy=unlabeled.toy:main\n"
    path = folder / f"{name}-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for at, text in {**files, **{f"{info}/{k}": v for k, v in about.items()}}.items():
            archive.writestr(at, text)
    return Wheel(path, folder / name)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (
            "Requires-Dist: numpy @ file:///home/me/numpy",
            r"unlabeled-toy requires 'numpy @ file:.*', which names a place",
        ),
        ("Requires-Dist: unlabeled-core @ https://example.org/core.whl", "which names a place"),
        ("Requires-Dist: unlabeled-other (>=0.1)", r"requires unlabeled-other; packages stand on the core"),
    ],
)
def test_a_bad_line_of_metadata_is_caught(line: str, says: str) -> None:
    from releasing import Fault
    from releasing.wheels import check_metadata

    check_metadata(Parser().parsestr(TOY), OURS)
    with pytest.raises(Fault, match=says):
        check_metadata(Parser().parsestr(f"{TOY}{line}\n"), OURS)


@pytest.mark.parametrize(
    ("before", "after", "says"),
    [
        ("unlabeled-core (>=0.1)", "unlabeled-core", "does not require a version of unlabeled-core"),
        ("unlabeled-core (>=0.1)", "numpy", "does not require a version of unlabeled-core"),
        ("License-Expression: MIT\n", "", "does not say its licence"),
    ],
)
def test_missing_lines_of_metadata_are_caught(before: str, after: str, says: str) -> None:
    from releasing import Fault
    from releasing.wheels import check_metadata

    with pytest.raises(Fault, match=says):
        check_metadata(Parser().parsestr(TOY.replace(before, after)), OURS)


def test_files_are_those_of_the_source(tmp_path: Path) -> None:
    from releasing import Fault
    from releasing.wheels import check_files

    whole = {"unlabeled/toy/__init__.py": "", "unlabeled/toy/py.typed": "", "unlabeled/toy/recipes/a.yaml": "a: 1"}
    check_files(made(tmp_path / "good", TOY, whole), b"free")
    for lost, says in (
        ("recipes/a.yaml", "lacks unlabeled/toy/recipes/a.yaml"),
        ("py.typed", "lacks unlabeled/toy/py.typed"),
    ):
        held = {k: v for k, v in whole.items() if not k.endswith(lost)}
        with pytest.raises(Fault, match=says):
            check_files(made(tmp_path / lost, TOY, held, source=whole), b"free")
    with pytest.raises(Fault, match=r"holds unlabeled/__init__\.py, which would hide all others"):
        check_files(made(tmp_path / "a", TOY, {**whole, "unlabeled/__init__.py": ""}), b"free")
    with pytest.raises(Fault, match=r"holds unlabeled/toy/old\.py, which is not in"):
        check_files(made(tmp_path / "b", TOY, {**whole, "unlabeled/toy/old.py": ""}, source=whole), b"free")
    with pytest.raises(Fault, match="does not hold the licence of the repository"):
        check_files(made(tmp_path / "c", TOY, whole), b"other")


def test_entry_points_are_those_of_the_project(tmp_path: Path) -> None:
    from releasing import Fault
    from releasing.wheels import check_entry_points

    wheel = made(tmp_path, TOY, {"unlabeled/toy/__init__.py": ""})
    check_entry_points(wheel)
    assert wheel.scripts == ["toy"]
    (wheel.source / "pyproject.toml").write_text(
        '[project.entry-points."unlabeled.domains"]\ntoy = "unlabeled.toy:domain"\n'
    )
    with pytest.raises(Fault, match=r"but its pyproject.toml says .*unlabeled.domains"):
        check_entry_points(wheel)


def test_a_module_that_nobody_asked_for_is_caught(tmp_path: Path) -> None:
    """Also one imported inside of a function; relative, standard and our own modules are nobody's requirement."""
    from releasing import Fault
    from releasing.wheels import check_imports

    text = "import os.path\nfrom . import b\nfrom unlabeled.core import x\n\ndef f():\n    import yaml.reader\n"
    core = made(tmp_path / "core", CORE, {})
    known = {"yaml": ["PyYAML"]}
    with pytest.raises(Fault, match=r"unlabeled/toy/a\.py imports yaml, but unlabeled-toy does not require it"):
        check_imports(made(tmp_path / "a", TOY, {"unlabeled/toy/a.py": text}), core, known)
    check_imports(made(tmp_path / "b", TOY + "Requires-Dist: pyyaml\n", {"unlabeled/toy/a.py": text}), core, known)


def test_a_clean_environment_holds_what_was_asked_for_and_none_of_ours(tmp_path: Path) -> None:
    """numpy is asked for, packaging is not, rich is by an extra; our own editable installs are nowhere."""
    from releasing import Fault
    from releasing.installed import Clean, check_alone, check_together, closure

    core = made(tmp_path, CORE, {"unlabeled/core/__init__.py": ""})
    asked = TOY + 'Requires-Dist: numpy (>=1)\nProvides-Extra: more\nRequires-Dist: rich ; extra == "more"\n'
    package = {"unlabeled/toy/__init__.py": "import numpy", "unlabeled/toy/page.py": "import rich"}
    toy = made(tmp_path, asked, package)
    assert closure([core, toy], extras=False) == {"numpy"} and "rich" in closure([core, toy], extras=True)
    plain = Clean(tmp_path / "plain", [core, toy], extras=False)
    assert check_alone(plain, toy, optional=["unlabeled.toy.page"]) == 0
    with pytest.raises(
        Fault, match=r"unlabeled\.toy\.page cannot be imported where .* without extras \(ModuleNotFound"
    ):
        check_alone(plain, toy, optional=())
    with pytest.raises(Fault, match=r"import of packaging ends with exit code 1: ModuleNotFoundError"):
        plain.run(["python", "-c", "import packaging"], "the import of packaging")
    whole = Clean(tmp_path / "whole", [core, toy], extras=True)
    assert check_together(whole) == 1
    where = whole.ask(
        "import json, unlabeled.core, os; print(json.dumps([unlabeled.core.__file__, os.getcwd()]))", what="x"
    )
    assert all(Path(at).is_relative_to(tmp_path.resolve() / "whole") for at in where)
    late = made(tmp_path / "late", asked.replace("numpy (>=1)", "numpy (>=999)"), package)
    with pytest.raises(Fault, match=r"unlabeled-toy requires numpy>=999, but the lock has"):
        closure([core, late], extras=False)
    with pytest.raises(Fault, match=r"requires no-such-thing, which is not installed here"):
        closure([made(tmp_path / "none", TOY + "Requires-Dist: no-such-thing\n", {})], extras=False)


@pytest.mark.slow
@pytest.mark.timeout(600)  # about 50 s of CPU time; minutes where the cores are busy
def test_our_wheels_pass_and_nothing_is_left_behind() -> None:
    def there() -> set[Path]:
        return {
            p for folder in ("shared", "packages", "tools") for p in (ROOT / folder).rglob("*") if p.suffix != ".pyc"
        }

    before = there()
    done = subprocess.run([ROOT / "tools" / "release"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p for p in there() - before if p.name != "__pycache__"} == set()
    lines = done.stdout.splitlines()
    assert all(line.startswith("ok  ") for line in lines)
    for package in ROOT.glob("packages/*/pyproject.toml"):
        name = package.parent.name
        assert any(line.startswith(f"ok  unlabeled.{name} alone") for line in lines), name
        assert any(line.startswith(f"ok  unlabeled-{name} --help, and of ") for line in lines), name
