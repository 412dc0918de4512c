"""The verb `curate`, the same in the core's command and in every domain's, where the domain is settled."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from unlabeled.core.cli.shell import out, progress
from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import parsed

PATH = typer.Argument(..., help="folder of pictures, or of what the domain reads; read recursively", show_default=False)
WORDS = typer.Argument(
    None,
    metavar="[STEPS]...",
    help="steps in order, and their settings as step.option=value; none: duplicates. `unlabeled methods` lists them",
    show_default=False,
)
TO = typer.Option(..., "-o", help="folder to write: manifest.parquet and curation.json", show_default=False)
OPTION = typer.Option([], "--option", "-O", help="option of the domain's reader, as name=value; may be repeated")
BUNDLE = typer.Option(None, "--bundle", help="folder that `pretrain` wrote: embeds the records", show_default=False)
EMBEDDINGS = typer.Option(
    None, "--embeddings", help="file that `embed` wrote, in place of a bundle", show_default=False
)
MAX_BAD = typer.Option(
    0.01,
    "--max-bad",
    min=0,
    max=1,
    help="share of unreadable items above which nothing is written and the exit code is 3",
)
AS_JSON = typer.Option(False, "--json", help="machine-readable output")


def add_to(app: typer.Typer, domain: str | None = None) -> None:
    """Give `app` the verb; `domain`: whose records it reads, where the command is a domain's."""
    if domain is None:

        @app.command("curate")
        def of_any(
            path: Path = PATH,
            steps: list[str] = WORDS,
            to: Path = TO,
            name: str | None = typer.Option(
                None, "--domain", help="read the folder as this domain's records; none: as pictures", show_default=False
            ),
            option: list[str] = OPTION,
            bundle: Path | None = BUNDLE,
            embeddings: Path | None = EMBEDDINGS,
            max_bad: float = MAX_BAD,
            as_json: bool = AS_JSON,
        ) -> None:
            """Say what of a folder to pretrain on, and why: duplicates, redundancy, balance, coreset, poison scan. Changes nothing."""
            _curate(path, steps or [], to, name, option, bundle, embeddings, max_bad, as_json)

        return

    @app.command("curate")
    def of_domain(
        path: Path = PATH,
        steps: list[str] = WORDS,
        to: Path = TO,
        option: list[str] = OPTION,
        bundle: Path | None = BUNDLE,
        embeddings: Path | None = EMBEDDINGS,
        max_bad: float = MAX_BAD,
        as_json: bool = AS_JSON,
    ) -> None:
        """Say which records to pretrain on, and why: duplicates, redundancy, balance. Changes nothing."""
        _curate(path, steps or [], to, domain, option, bundle, embeddings, max_bad, as_json)


def _curate(path: Path, words: list[str], to: Path, domain: str | None, option: list[str], *rest: Any) -> None:
    bundle, embeddings, max_bad, as_json = rest
    names = [word for word in words if "=" not in word]
    settings: dict[str, dict[str, Any]] = {}
    for word in words:
        if "=" not in word:
            continue
        name, _, text = word.partition("=")
        step, dot, field = name.partition(".")
        if not dot:
            raise RequestError(f"the setting {word!r} is not step.option=value")
        settings.setdefault(step, {})[field] = parsed(text, word)
    options = {}
    for pair in option:
        name, equals, text = pair.partition("=")
        if not equals:
            raise RequestError(f"the option {pair!r} is not name=value")
        options[name] = parsed(text, pair)
    from unlabeled.core.curate.run import curate, show

    with progress("reading") as update:
        found = curate(path, to, names, settings, domain, options, bundle, embeddings, max_bad, update)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        out.print(show(found), markup=False)
        out.print(f"manifest: {to / 'manifest.parquet'}", markup=False)
