"""What every command shares: exit codes, one-sentence errors, logging, progress. Imports neither torch nor lightning."""

from __future__ import annotations

import errno
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from typer.core import TyperGroup

from unlabeled.core.contracts import RequestError, UnlabeledError

INTERRUPTED = 130

err = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)


class Guarded(TyperGroup):
    """Commands whose errors become one sentence and an exit code; a traceback only with --debug."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            say(str(stop) or "interrupted; nothing half-written is left behind")
            code = INTERRUPTED
        except UnlabeledError as error:
            say(str(error))
            code = error.exit_code
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of the output has gone, as `head` does
                raise
            at = f"{error.filename}: " if error.filename else ""
            say(f"{at}{error.strerror or error}; look at the path, its rights and the space that is left")
            code = RequestError.exit_code
        except Exception as error:
            if hasattr(error, "exit_code"):  # the parser's own: usage errors and Exit
                raise
            say(
                f"{type(error).__name__}: {' '.join(str(error).split())}; this is a fault of the program, --debug shows where"
            )
            code = 1
        if ctx.params.get("debug"):
            traceback.print_exc()
        raise typer.Exit(code)


def make_app(name: str, help: str) -> typer.Typer:
    app = typer.Typer(
        name=name, help=help, cls=Guarded, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )

    @app.callback()
    def settings(debug: bool = typer.Option(False, "--debug", help="show the traceback of an error")) -> None:
        logging.captureWarnings(True)
        logger = logging.getLogger("unlabeled")
        logger.handlers[:] = [Lines()]
        logger.setLevel(logging.DEBUG if debug else logging.INFO)
        logger.propagate = False

    return app


class Lines(logging.Handler):
    """Log lines to standard error, above any progress bar; the same line once a command."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() in self._said:
            return
        self._said.add(record.getMessage())
        err.print(f"[dim]{record.levelname.lower()}:[/dim] " if record.levelno > logging.INFO else "", end="")
        err.print(record.getMessage(), markup=False)


def run(app: typer.Typer, args: Sequence[str] | None = None) -> int:
    """Run a command line and give its exit code."""
    try:
        app(args=list(sys.argv[1:] if args is None else args))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def say(sentence: str) -> None:
    err.print("[bold red]error:[/bold red] ", end="")
    err.print(sentence, markup=False)


@contextmanager
def progress(what: str) -> Any:
    """A progress bar on standard error; yields `update(done, total, note)`. Lines instead, where there is no terminal."""
    if not err.is_terminal:
        yield _lines(what)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} {task.fields[note]}"),
    )
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=err, transient=True) as bar:
        task = bar.add_task(what, total=None, note="")
        yield lambda done, total, note="": bar.update(task, completed=done, total=total, note=note)


def _lines(what: str) -> Callable[..., None]:
    """About ten lines for a whole job."""
    shown = -1

    def update(done: int, total: int, note: str = "") -> None:
        nonlocal shown
        tenth = 10 * done // max(1, total)
        if tenth != shown:
            shown = tenth
            err.print(f"{what}: {done}/{total} {note}".rstrip(), markup=False)

    return update
