"""Wheels in use: a clean environment without the repository, as pip would make it, and what runs there.

Third-party distributions are links to those of the environment this runs in (torch alone takes gigabytes), but only those
that the wheels ask for, directly or not. So what a wheel forgot to ask for is missing here as it is missing there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from releasing import Fault
from releasing.wheels import Wheel

IMPORT = """
import importlib, json, pkgutil, sys
import unlabeled
failed, files, count = {}, {}, 0
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    files[name] = package.__file__
    for info in pkgutil.walk_packages(package.__path__, name + ".", onerror=lambda name: None):
        count += 1
        try:
            importlib.import_module(info.name)
        except Exception as error:
            failed[info.name] = f"{type(error).__name__}: {error}"
there = sorted("unlabeled." + info.name for info in pkgutil.iter_modules(unlabeled.__path__))
print(json.dumps({"failed": failed, "files": files, "there": there, "count": count}))
"""
VERBS = """
import json
from typer.main import get_command
from unlabeled.core.cli.domain import build
from unlabeled.core.cli.main import app
from unlabeled.core.contracts.domain import domains
apps = {"unlabeled": app, **{f"unlabeled-{name}": build(domain) for name, domain in domains().items()}}
print(json.dumps({name: sorted(get_command(made).commands) for name, made in apps.items()}))
"""


class Clean:
    """An environment in the new folder `path` that holds these wheels and what they ask for; extras: the optional too."""

    def __init__(self, path: Path, wheels: Sequence[Wheel], extras: bool) -> None:
        self.path, self.wheels = path.resolve(), wheels
        venv.EnvBuilder(symlinks=True).create(path)
        self.bin = self.path / "bin"
        third = path / "third-party"
        third.mkdir()
        for name in sorted(closure(wheels, extras)):
            _link(name, third)
        # read by Python at its start; .pth files of that folder are not, so that no editable install of ours comes in
        (Path(self._site()) / "third-party.pth").write_text(f"{third.resolve()}\n")
        pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "--python", str(self.bin / "python")]
        files = [str(w.path) for w in wheels]
        done = subprocess.run(
            [*pip, "install", "--no-deps", "--no-index", *files], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise Fault(f"{', '.join(w.name for w in wheels)} cannot be installed: {done.stderr.strip()}")

    def _site(self) -> str:
        return sysconfig.get_path("purelib", vars={"base": str(self.path), "platbase": str(self.path)})

    def run(self, command: Sequence[str], what: str) -> str:
        """What a command of this environment prints, run in an empty folder, without ours on any path."""
        home = self.path / "home"
        home.mkdir(exist_ok=True)
        env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "UNLABELED"))}
        env |= {"HOME": str(home), "PATH": f"{self.bin}{os.pathsep}{env['PATH']}", "OMP_NUM_THREADS": "1"}
        program = str(self.bin / command[0])
        done = subprocess.run([program, *command[1:]], cwd=home, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
            raise Fault(f"{what} ends with exit code {done.returncode}: {last}")
        return done.stdout

    def ask(self, program: str, *words: str, what: str) -> Any:
        """What a program in Python prints as the last line, which is JSON."""
        return json.loads(self.run(["python", "-c", program, *words], what).splitlines()[-1])


def closure(wheels: Sequence[Wheel], extras: bool) -> set[str]:
    """Every third-party distribution that the wheels ask for, and those that these ask for in turn.

    Raises Fault where one is not in the environment this runs in, or in a version that a wheel does not allow.
    """
    versions = {w.name: w.metadata["Version"] for w in wheels}
    found: set[tuple[str, frozenset[str]]] = set()
    todo = [(w.name, r, _extras(w, extras)) for w in wheels for r in w.requirements]
    while todo:
        whose, asked, chosen = todo.pop()
        if asked.marker is not None and not any(asked.marker.evaluate({"extra": e}) for e in ("", *chosen)):
            continue
        name = canonicalize_name(asked.name)
        try:
            version = versions.get(name) or distribution(name).version
        except PackageNotFoundError:
            raise Fault(
                f"{whose} requires {asked}, which is not installed here; run poetry lock and tools/setup"
            ) from None
        if not asked.specifier.contains(version, prereleases=True):
            raise Fault(f"{whose} requires {asked}, but the lock has {version}; correct its pyproject.toml or the lock")
        key = name, frozenset(asked.extras)
        if name not in versions and key not in found:
            found.add(key)
            todo += [(name, Requirement(line), asked.extras) for line in distribution(name).requires or ()]
    return {name for name, _ in found}


def _extras(wheel: Wheel, wanted: bool) -> Iterable[str]:
    return wheel.metadata.get_all("Provides-Extra", []) if wanted else ()


def _link(name: str, folder: Path) -> None:
    """Links in `folder` to the modules of a distribution and to what it says of itself."""
    held = distribution(name)
    for top in {f.parts[0] for f in held.files or ()} - {"..", "__pycache__"}:
        if not top.endswith(".pth") and not (folder / top).exists():
            (folder / top).symlink_to(Path(str(held.locate_file(top))).resolve())


def check_alone(clean: Clean, wheel: Wheel, optional: Iterable[str]) -> int:
    """How many modules of the wheel can be imported with the core alone beside it: all but the `optional`, with what is in
    them."""
    found = _modules(clean, [wheel])
    expected = sorted({"unlabeled.core", wheel.package})
    if found["there"] != expected:
        raise Fault(f"beside {wheel.name} the clean environment holds {found['there']}, not {expected}")
    for module, reason in found["failed"].items():
        if not any(module == o or module.startswith(f"{o}.") for o in optional) or "ModuleNotFound" not in reason:
            raise Fault(
                f"{module} cannot be imported where {wheel.name} is installed without extras ({reason}); import an optional "
                "library where it is used, and say there which extra to install"
            )
    return int(found["count"] - len(found["failed"]))


def check_together(clean: Clean) -> int:
    """How many modules of all wheels can be imported with all extras: every one."""
    found = _modules(clean, clean.wheels)
    for module, reason in found["failed"].items():
        raise Fault(f"{module} cannot be imported with all extras installed ({reason})")
    return int(found["count"])


def _modules(clean: Clean, wheels: Sequence[Wheel]) -> Any:
    found = clean.ask(IMPORT, *(w.package for w in wheels), what=f"importing {', '.join(w.package for w in wheels)}")
    for name, file in found["files"].items():
        if not Path(file).resolve().is_relative_to(clean.path):
            raise Fault(f"{name} was imported from {file}, not from the clean environment")
    return found


def check_help(clean: Clean, script: str, verb: str = "") -> None:
    words = [script, *([verb] if verb else []), "--help"]
    if "Usage" not in clean.run(words, " ".join(words)):
        raise Fault(f"{' '.join(words)} does not say how it is used")


def verbs(clean: Clean) -> dict[str, list[str]]:
    """Every command of the wheels and its verbs. Raises Fault where a wheel's command is of no domain that is found."""
    found: dict[str, list[str]] = clean.ask(VERBS, what="listing the verbs")
    for wheel in clean.wheels:
        for script in wheel.scripts:
            if script not in found:
                raise Fault(f"{wheel.name} installs the command {script}, but no domain of that name is found")
    return found
