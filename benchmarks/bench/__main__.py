"""`tools/bench NAME`: one row. `--list`: the rows. `--all -o FOLDER`: all, each in processes of its own; `--new`: what is missing."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import report
from bench.rows import names
from unlabeled.core.contracts.errors import RequestError
from unlabeled.core.contracts.recipe import nearest
from unlabeled.core.files import write_atomic, write_json


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/bench", description=__doc__)
    parser.add_argument("name", nargs="?", help="a row")
    parser.add_argument("--list", action="store_true", help="the rows and what they compare")
    parser.add_argument("--all", action="store_true", help="every row")
    parser.add_argument(
        "--new", action="store_true", help="rows that the newest file in the folder lacks; others are kept"
    )
    parser.add_argument("-o", dest="out", type=Path, help="folder for DATE-bench.json; also renews README.md beside it")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--threads", type=int, help="of torch; default: the cores")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, though there is a GPU")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: a test of the harness, never a result")
    asked = parser.parse_args(words)
    try:
        return run(asked, parser)
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2


def run(asked: argparse.Namespace, parser: argparse.ArgumentParser) -> int:
    if asked.list:
        rows = [report.about(name) for name in names()]
        print(json.dumps(rows, indent=2) if asked.json else "\n".join(f"{r['name']:18} {r['what']}" for r in rows))
        return 0
    if asked.all or asked.new:
        if asked.out is None:
            raise RequestError("--all writes a file: name its folder with -o, benchmarks/results for the committed one")
        kept = {} if asked.all else _newest(asked.out)
        return _write([kept.get(name) or _apart(name, asked) for name in names()], asked.out)
    if asked.name is None:
        parser.print_usage(sys.stderr)
        return 2
    if asked.name not in names():
        raise RequestError(f"tools/bench: {nearest(asked.name, names())}")
    from bench.measure import measured

    found = measured(asked.name, threads=asked.threads, cpu=asked.cpu, tiny=asked.tiny)
    print(json.dumps(found, indent=2) if asked.json else report.line(found))
    return 0


def _apart(name: str, asked: argparse.Namespace) -> dict[str, Any]:
    """One row in a fresh process, so that no row finds another's memory, threads or caches."""
    options = [f"--threads={asked.threads}"] * bool(asked.threads) + ["--cpu"] * asked.cpu + ["--tiny"] * asked.tiny
    done = subprocess.run([sys.executable, "-m", "bench", name, "--json", *options], stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(report.line(found), file=sys.stderr)
    return found


def _newest(out: Path) -> dict[str, dict[str, Any]]:
    """The rows of the newest file by name, each with the commit and the date it was measured at."""
    file = max(out.glob("*-bench.json"), default=None)
    return {} if file is None else {row["name"]: row for row in json.loads(file.read_text())["rows"]}


def _write(found: list[dict[str, Any]], out: Path) -> int:
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"{max(row['date'] for row in found)}-bench.json"
    write_json(file, {"command": "tools/bench --all", "rows": found})
    readme = out.parent / "README.md"
    if readme.exists():
        write_atomic(readme, report.renewed(readme.read_text(), json.loads(file.read_text())["rows"]).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
