"""`tools/learn -o DIR`: run what is not there yet, print the table, and write it down when it is whole."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from learning import budget, digits, jobs, report, stamp
from unlabeled.core.contracts.domain import methods
from unlabeled.core.contracts.errors import RequestError
from unlabeled.core.contracts.recipe import nearest
from unlabeled.core.files import write_atomic, write_json

HERE = Path(__file__).parents[1]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/learn", description=__doc__)
    parser.add_argument("-o", dest="out", type=Path, required=True, help="folder of the runs; goes on where it stopped")
    parser.add_argument("--methods", help="only these, separated by commas")
    parser.add_argument("--peer", choices=[jobs.PEER], help="also the peer's runs of these methods")
    parser.add_argument("--budget", type=Path, default=budget.FILE, help="another budget than the committed one")
    parser.add_argument("--validate", action="store_true", help="as settings were chosen: other seed, no test image")
    parser.add_argument("--watch", action="store_true", help="the study of the watch recordings instead")
    parser.add_argument("--to", type=Path, default=HERE, help="where methods.md and results/ are written")
    asked = parser.parse_args(words)
    try:
        return watch(asked.out, asked.to) if asked.watch else learn(asked)
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2


def learn(asked: argparse.Namespace) -> int:
    plan = budget.read(asked.budget)
    if asked.validate:
        plan = plan.model_copy(update={"seeds": (plan.choosing_seed,)})
    known = installed(plan)
    chosen = asked.methods.split(",") if asked.methods else known
    if unknown := [n for n in chosen if n not in known]:
        raise RequestError(f"--methods: {nearest(unknown[0], known)}")
    asked.out.mkdir(parents=True, exist_ok=True)
    names = jobs.starts(plan, chosen, asked.peer is not None)
    todo = [(n, s) for n in names for s in jobs.seeds_of(plan, n)]
    for number, (name, seed) in enumerate(todo, 1):
        done = jobs.run(plan, name, seed, asked.out, asked.validate)
        print(f"{number}/{len(todo)} {name}, seed {seed}{'' if done else ': there already'}", file=sys.stderr)
    split = digits.split(plan.data.test_forms, plan.data.validation_forms, plan.data.seed, asked.validate)
    found = report.results(plan, names, asked.out, split.test)
    text = report.table(found, newest(asked.to, "watch-study"))
    print(text)
    whole = set(jobs.starts(plan, known, True))
    if asked.validate or set(names) != whole:
        print(f"{asked.to} is left as it is: this is not the whole table", file=sys.stderr)
        return 0
    (asked.to / "results").mkdir(exist_ok=True)
    write_json(asked.to / "results" / f"{found['date']}-digits.json", found)
    write_atomic(asked.to / "methods.md", text.encode())
    return 0


def installed(plan: budget.Budget) -> list[str]:
    """The methods of the core that the budget has a row for. Raises RequestError where a method has none."""
    there = [c.name for c in methods().values() if c.kind == "method" and c.target.startswith("unlabeled.core.")]
    if without := [n for n in there if n not in plan.methods and n not in plan.left_out]:
        raise RequestError(f"{budget.FILE.name} has no row for {', '.join(without)}; add one")
    return [n for n in plan.methods if n in there]


def newest(folder: Path, kind: str) -> Any:
    """The latest committed result of this kind, or None."""
    files = sorted((folder / "results").glob(f"*-{kind}.json"))
    return json.loads(files[-1].read_text()) if files else None


def watch(out: Path, to: Path) -> int:
    """The study of the biosignal demo, kept beside the other results."""
    from unlabeled.biosignal.demo import demo

    demo(out / "watch")
    about = stamp.stamp()
    study = json.loads((out / "watch" / "study" / "study.json").read_text())
    (to / "results").mkdir(exist_ok=True)
    found = {"command": "tools/learn --watch", **about, "study": study}
    write_json(to / "results" / f"{about['date']}-watch-study.json", found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
