"""`tools/release`: one line for each check; the first that fails ends it."""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import packages_distributions
from pathlib import Path

from releasing import Fault
from releasing.installed import Clean, check_alone, check_help, check_together, verbs
from releasing.wheels import Wheel, build, check_entry_points, check_files, check_imports, check_metadata

ROOT = Path(__file__).parents[2]
# modules that are nothing without an extra: what tests of packages subclass, and code that is shipped inside of an export
OPTIONAL = (
    "unlabeled.core.testing",
    "unlabeled.core.bundle.export.modeling_unlabeled",
    # compiled twins, imported only where numba is; the numpy ones give the same
    "unlabeled.network.capture.decode_fast",
    "unlabeled.network.flow.tokenise_fast",
    "unlabeled.network.testing",
)


def main() -> int:
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="release-") as folder:
            check(Path(folder))
    except Fault as fault:
        print(f"release: {fault}", file=sys.stderr)
        return 1
    print(f"ok  all of it, in {time.monotonic() - began:.0f} s")
    return 0


def check(folder: Path) -> None:
    """Every check on every wheel of the repository, in an empty folder. Raises Fault."""
    wheels = build(
        [ROOT / "shared", *sorted(p.parent for p in ROOT.glob("packages/*/pyproject.toml"))], folder / "wheels"
    )
    core, licence, known = wheels[0], (ROOT / "LICENSE").read_bytes(), packages_distributions()
    for wheel in wheels:
        check_metadata(wheel.metadata, {w.name for w in wheels})
        check_files(wheel, licence)
        check_entry_points(wheel)
        check_imports(wheel, core, known)
        say(f"{wheel.path.name}: {len(wheel.files)} files, requirements, entry points, licence")
    with ThreadPoolExecutor(2) as two:
        jobs = [two.submit(alone, folder, core, wheel) for wheel in wheels]
        together = Clean(folder / "all", wheels, extras=True)
        jobs.append(two.submit(lambda: f"all together, with extras: {check_together(together)} modules import"))
        for job in jobs:
            say(job.result())
        together.run(["unlabeled", "doctor"], "unlabeled doctor")
        say("unlabeled doctor: every part and method that is declared loads")
        commands = verbs(together)
        pages = [(script, verb) for script, found in commands.items() for verb in ("", *found)]
        list(two.map(lambda page: check_help(together, *page), pages))
    for script, found in commands.items():
        say(f"{script} --help, and of {', '.join(found)}")


def alone(folder: Path, core: Wheel, wheel: Wheel) -> str:
    beside = [core] if wheel is core else [core, wheel]
    clean = Clean(folder / wheel.name, beside, extras=False)
    return f"{wheel.package} alone, without extras: {check_alone(clean, wheel, OPTIONAL)} modules import"


def say(line: str) -> None:
    print(f"ok  {line}", flush=True)


sys.exit(main())
