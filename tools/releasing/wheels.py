"""Wheels as files: what is in them, and what they ask for."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from functools import cached_property
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from releasing import Fault


@dataclass(frozen=True)
class Wheel:
    """path: of the file; source: the folder it was built from."""

    path: Path
    source: Path

    @cached_property
    def files(self) -> dict[str, bytes]:
        with zipfile.ZipFile(self.path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    def about(self, name: str) -> str:
        """A file of its `.dist-info`; "" where there is none."""
        return next((text.decode() for f, text in self.files.items() if f.endswith(f".dist-info/{name}")), "")

    @cached_property
    def metadata(self) -> Message:
        return Parser().parsestr(self.about("METADATA"))

    @property
    def name(self) -> str:
        return canonicalize_name(self.metadata["Name"])

    @property
    def package(self) -> str:
        """What is imported: unlabeled.earth of unlabeled-earth."""
        return self.name.replace("-", ".", 1)

    @property
    def requirements(self) -> list[Requirement]:
        return [Requirement(line) for line in self.metadata.get_all("Requires-Dist", [])]

    @cached_property
    def entry_points(self) -> dict[str, dict[str, str]]:
        parser = configparser.ConfigParser(delimiters=("=",))
        parser.optionxform = str  # type: ignore[method-assign,assignment]
        parser.read_string(self.about("entry_points.txt"))
        return {group: dict(parser[group]) for group in parser.sections()}

    @property
    def scripts(self) -> list[str]:
        return sorted(self.entry_points.get("console_scripts", {}))


def build(folders: Sequence[Path], out: Path) -> list[Wheel]:
    """The wheel of each folder, in the folder `out`."""
    wheels = []
    for folder in folders:
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--disable-pip-version-check", "--no-deps", "--no-index"]
        to = out / folder.name
        done = subprocess.run(
            [*command, "--no-build-isolation", "-w", str(to), str(folder)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Fault(f"{folder} builds no wheel: {(done.stderr.strip() or done.stdout.strip()).splitlines()[-1]}")
        (path,) = to.glob("*.whl")
        wheels.append(Wheel(path, folder))
    return wheels


def check_metadata(metadata: Message, ours: Collection[str]) -> None:
    """Requirements by name and version only, and of our own distributions the core alone; ours: their names."""
    name = canonicalize_name(metadata["Name"])
    lines = metadata.get_all("Requires-Dist", [])
    for line in lines:
        if " @ " in line or "file:" in line:
            raise Fault(f"{name} requires {line!r}, which names a place; name a version in its pyproject.toml")
    asked = {canonicalize_name(r.name): r for r in map(Requirement, lines)}
    for other in sorted(asked.keys() & set(ours)):
        if other != "unlabeled-core":
            raise Fault(f"{name} requires {other}; packages stand on the core and never on each other")
    if name != "unlabeled-core" and not asked.get("unlabeled-core", Requirement("none")).specifier:
        raise Fault(
            f"{name} does not require a version of unlabeled-core; write unlabeled-core>=X in its pyproject.toml"
        )
    if metadata.get("License-Expression") is None or metadata.get("Requires-Python") is None:
        raise Fault(f"{name} does not say its licence and which Python it needs; write both in its pyproject.toml")


def check_files(wheel: Wheel, licence: bytes) -> None:
    """The package with all of its data and nothing else, its types, its licence, and no `unlabeled/__init__.py`."""
    held = {f for f in wheel.files if ".dist-info/" not in f}
    if "unlabeled/__init__.py" in held:
        raise Fault(f"{wheel.name} holds unlabeled/__init__.py, which would hide all others; take it out of src")
    source = wheel.source / "src"
    wanted = {p.relative_to(source).as_posix() for p in source.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    root = wheel.package.replace(".", "/")
    for f in (f"{root}/py.typed", *sorted(wanted - held)):
        if f not in held:
            raise Fault(f"{wheel.name} lacks {f}; is it ignored by git, or outside of tool.poetry.packages?")
    for f in sorted(held - wanted):
        raise Fault(f"{wheel.name} holds {f}, which is not in {source}; remove what an earlier build left")
    found = [text for f, text in wheel.files.items() if f.endswith("/LICENSE")]
    if found != [licence]:
        raise Fault(f"{wheel.name} does not hold the licence of the repository; copy LICENSE to {wheel.source}")


def check_entry_points(wheel: Wheel) -> None:
    """The commands and entry points of its pyproject.toml, and at least one command."""
    project = tomllib.loads((wheel.source / "pyproject.toml").read_text())["project"]
    wanted = {"console_scripts": project.get("scripts", {}), **project.get("entry-points", {})}
    if wheel.entry_points != wanted or not wheel.scripts:
        raise Fault(f"{wheel.name} has the entry points {wheel.entry_points}, but its pyproject.toml says {wanted}")


def check_imports(wheel: Wheel, core: Wheel, distributions: Mapping[str, Sequence[str]]) -> None:
    """Every third-party module that it names is of a distribution that it, or the core, asks for.

    Else it would work here, where something else brings that module along, and break there.
    distributions: module -> those that hold it, as `importlib.metadata.packages_distributions` says.
    """
    asked = {canonicalize_name(r.name) for w in (wheel, core) for r in w.requirements}
    for file, text in wheel.files.items():
        if not file.endswith(".py"):
            continue
        for module in sorted(imported(text.decode()) - sys.stdlib_module_names - {"unlabeled"}):
            if not asked & {canonicalize_name(d) for d in distributions.get(module, [module])}:
                raise Fault(
                    f"{file} imports {module}, but {wheel.name} does not require it; add it to its pyproject.toml"
                )


def imported(source: str) -> set[str]:
    """The top-level modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}
