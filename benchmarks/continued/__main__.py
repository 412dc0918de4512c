"""`tools/continued -o DIR --fashion FOLDER`: run what is not there yet, print the page, and write it down."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from continued import budget, jobs, report, sets
from unlabeled.core.contracts.errors import RequestError
from unlabeled.core.files import write_atomic, write_json

HERE = Path(__file__).parents[1]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools/continued", description=__doc__)
    parser.add_argument("-o", dest="out", type=Path, required=True, help="folder of the runs; goes on where it stopped")
    parser.add_argument("--fashion", type=Path, required=True, help="folder of the four files of Fashion-MNIST")
    parser.add_argument("--budget", type=Path, default=budget.FILE, help="another budget than the committed one")
    parser.add_argument("--to", type=Path, default=HERE, help="where continued.md and results/ are written")
    asked = parser.parse_args(words)
    try:
        study(asked)
    except RequestError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def study(asked: argparse.Namespace) -> None:
    plan = budget.read(asked.budget)
    both = sets.read(asked.fashion, plan.fashion, budget.data())
    asked.out.mkdir(parents=True, exist_ok=True)
    todo = jobs.jobs(plan)
    for number, job in enumerate(todo, 1):
        done = jobs.run(plan, both, job, asked.out)
        method, regime, seed = job
        print(
            f"{number}/{len(todo)} {method} {regime}, seed {seed}{'' if done else ': there already'}", file=sys.stderr
        )
    found = report.results(plan, both, asked.out)
    text = report.page(found)
    print(text)
    (asked.to / "results").mkdir(exist_ok=True)
    write_json(asked.to / "results" / f"{found['date']}-continued.json", found)
    write_atomic(asked.to / "continued.md", text.encode())


if __name__ == "__main__":
    sys.exit(main())
