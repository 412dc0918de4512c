"""`unlabeled-<domain>`: the verbs, generated for a Domain. Verbs import what they need when they run."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from unlabeled.core.cli.curate import add_to as add_curate
from unlabeled.core.cli.export import add_to as add_export
from unlabeled.core.cli.shell import make_app, out, progress, run
from unlabeled.core.contracts import Domain, Incompatible, RequestError, load
from unlabeled.core.contracts.domain import domain as find
from unlabeled.core.contracts.recipe import Data, parsed, read_recipe, validated
from unlabeled.core.downstream.options import Finetune
from unlabeled.core.launch import leader

BUNDLE = typer.Argument(..., help="folder that `pretrain` wrote (RUN/bundle)", show_default=False)
RECIPE = typer.Argument(..., help="recipe in YAML", show_default=False)
LABELS = typer.Option(..., "--labels", help="CSV with the columns key and label", show_default=False)
OPTION = typer.Option([], "--option", "-O", help="option of the reader, as name=value; may be repeated")
CONVERT = typer.Option(
    [],
    "--convert",
    help="also allow: a conversion of order, units or rate; values far from pretraining's (range); items of another size "
    "(size); may be repeated",
)
AS_JSON = typer.Option(False, "--json", help="machine-readable output")
SETTINGS = "\n\n".join(  # every one a line of the help
    [
        "Settings, as key=value:",
        *(
            f"{name}: {info.description} ({'none' if info.default in (None, ()) else info.default})"
            for name, info in Finetune.model_fields.items()
        ),
    ]
)
BY = typer.Option(
    [],
    "--by",
    help="another column of the labels, as scanner, site or sex: whether neighbours share it, and scores by it; may be repeated",
)
SEEN = typer.Option(False, "--allow-seen", help="also test on groups seen in pretraining; the result says so")


def build(domain: Domain) -> typer.Typer:
    """The command line of one domain."""
    app = make_app(f"unlabeled-{domain.name}", domain.summary)
    read = f": {', '.join(domain.formats)}" if domain.formats else ""
    folder = typer.Argument(..., help=f"folder of files, read recursively{read}", show_default=False)
    known_formats = ", ".join(["parquet", "csv", *domain.writers])
    cells = "; for segmentation also the files that the package's README names" if domain.cells else ""

    @app.command()
    def inspect(
        path: Path = folder,
        option: list[str] = OPTION,
        max_bad: float = typer.Option(
            0.01, "--max-bad", min=0, max=1, help="share of unreadable records above which the exit code is 3"
        ),
        as_json: bool = AS_JSON,
    ) -> None:
        """Say what is there and what is broken. Changes nothing."""
        from unlabeled.core.cli.inspect import report, show

        with progress("reading") as update:
            found = report(domain, Data(path=path, options=_options(option), max_bad_fraction=max_bad), update)
        print(json.dumps(found, indent=2)) if as_json else show(found)
        if found["unreadable_share"] > max_bad:
            raise typer.Exit(3)

    @app.command()
    def init(
        path: Path = folder,
        to: Path = typer.Option(Path("recipe.yaml"), "-o", help="recipe to write"),
        method: str = typer.Option("simclr", "--method", help="pretraining method"),
        option: list[str] = OPTION,
    ) -> None:
        """Write a runnable recipe for a folder."""
        from unlabeled.core.cli.init import write

        write(domain, path, to, method, _options(option))
        out.print(f"{to} is ready: unlabeled-{domain.name} pretrain {to} -o RUN", markup=False)

    @app.command()
    def pretrain(
        recipe: Path | None = typer.Argument(None, help="recipe in YAML", show_default=False),
        overrides: list[str] = typer.Argument(None, help="changes to it, as key.sub=value", show_default=False),
        to: Path | None = typer.Option(None, "-o", help="run folder to write", show_default=False),
        resume: Path | None = typer.Option(None, "--resume", help="run folder to go on with", show_default=False),
        branch: str | None = typer.Option(
            None,
            "--branch",
            help="run folder to branch off from, before its decay, or RUN@STEP; its recipe is taken where none is named",
            show_default=False,
        ),
    ) -> None:
        """Train an encoder and write a run folder with its bundle."""
        if branch is not None:
            origin, step = _origin(branch)
            overrides = [*_shifted(recipe, overrides), f"branch.run={origin.absolute()}"]
            overrides += [] if step is None else [f"branch.step={step}"]
            recipe = recipe if recipe is not None and recipe.is_file() else origin / "recipe.yaml"
            if not recipe.is_file():
                raise RequestError(f"--branch: {origin} holds no run to branch off from")
        if resume is not None:
            if recipe is not None or to is not None:
                raise RequestError("--resume RUN takes its recipe from the run; leave the recipe and -o out")
            recipe, to = resume / "recipe.yaml", resume
            if not recipe.is_file():
                raise RequestError(f"{resume} holds no run to go on with; begin one by pretrain RECIPE -o {resume}")
        elif recipe is None or to is None:
            raise RequestError("say which recipe and where to: pretrain RECIPE -o RUN, or pretrain --resume RUN")
        elif (to / "recipe.yaml").exists() and leader():
            raise RequestError(f"{to} already holds a run; go on with it by --resume {to}, or choose another folder")
        read = _recipe(domain, recipe, overrides or [])  # before what takes seconds to import
        from unlabeled.core.report import pretrain as train

        try:
            with progress("pretraining") as update:
                bundle = train(
                    read,
                    to,
                    lambda done, total, values: update(done, total, _loss(values)),
                )
        except KeyboardInterrupt:
            if (to / "recipe.yaml").is_file():
                raise KeyboardInterrupt(f"interrupted; go on by pretrain --resume {to}") from None
            raise
        out.print(f"bundle: {bundle}", markup=False)
        out.print(f"report: {to / 'report.html'}", markup=False)

    @app.command()
    def evaluate(
        bundle: Path = BUNDLE,
        path: Path = folder,
        labels: Path = LABELS,
        convert: list[str] = CONVERT,
        option: list[str] = OPTION,
        by: list[str] = BY,
        allow_seen: bool = SEEN,
        as_json: bool = AS_JSON,
    ) -> None:
        """kNN, linear probe and rank on unseen groups, beside random weights and the field's simple baselines."""
        _own(domain, bundle)
        from unlabeled.core.evaluation.evaluate import evaluate as score
        from unlabeled.core.evaluation.evaluate import show

        found = score(bundle, path, labels, convert=convert, options=_options(option), allow_seen=allow_seen, by=by)
        print(json.dumps(found, indent=2)) if as_json else show(found)

    @app.command()
    def rank(
        bundles: list[Path] = typer.Argument(..., help="folders that `pretrain` wrote", show_default=False),
        path: Path = folder,
        labels: Path = LABELS,
        convert: list[str] = CONVERT,
        option: list[str] = OPTION,
        allow_seen: bool = SEEN,
        as_json: bool = AS_JSON,
    ) -> None:
        """Which bundle to begin from: LogME, PED and rank on unseen groups, beside random weights; nothing is trained."""
        for bundle in bundles:
            _own(domain, bundle)
        from unlabeled.core.evaluation.ranking import rank as put_in_order
        from unlabeled.core.evaluation.ranking import show

        found = put_in_order(bundles, path, labels, convert=convert, options=_options(option), allow_seen=allow_seen)
        print(json.dumps(found, indent=2)) if as_json else show(found)

    @app.command()
    def embed(
        bundle: Path = BUNDLE,
        path: Path = folder,
        to: Path = typer.Option(..., "-o", help="Parquet file to write", show_default=False),
        convert: list[str] = CONVERT,
        option: list[str] = OPTION,
    ) -> None:
        """Write one embedding per item, with its key, as Parquet."""
        _own(domain, bundle)
        from unlabeled.core.evaluation.evaluate import embed as write

        count = write(bundle, path, to, convert=convert, options=_options(option))
        out.print(f"{to}: {count} embeddings", markup=False)

    @app.command(epilog=SETTINGS)
    def finetune(
        bundle: Path = typer.Argument(
            ..., help="folder that `pretrain` wrote, or a recipe, to begin without one", show_default=False
        ),
        path: Path = folder,
        settings: list[str] = typer.Argument(None, help="how, as key=value; listed below", show_default=False),
        labels: Path = typer.Option(
            ...,
            "--labels",
            help=f"CSV: key and label, labels (a;b), value, file, or start, stop and label{cells}",
            show_default=False,
        ),
        task: str = typer.Option(
            ..., "--task", help="classify, tag, segment, regress or a task of the domain", show_default=False
        ),
        to: Path = typer.Option(..., "-o", help="model folder to write", show_default=False),
        convert: list[str] = CONVERT,
        option: list[str] = OPTION,
        as_json: bool = AS_JSON,
    ) -> None:
        """Learn a task from labels and write a model, with its score on groups it was not trained on."""
        chosen = validated(Finetune, _options(settings or []), "finetune")
        if bundle.is_file():
            _recipe(domain, bundle, [])
        else:
            _own(domain, bundle)
        from unlabeled.core.downstream.finetune import finetune as learn
        from unlabeled.core.downstream.save import read_model, show

        with progress("fine-tuning") as update:
            learn(
                bundle,
                path,
                labels,
                task,
                to,
                convert=convert,
                options=_options(option),
                on_progress=update,
                **chosen.model_dump(exclude_unset=True),
            )
        found = read_model(to)
        if as_json:
            print(json.dumps(found.model_dump(mode="json"), indent=2))
        else:
            show(found)
            out.print(f"model: {to}", markup=False)

    @app.command()
    def predict(
        model: Path = typer.Argument(..., help="folder that `finetune` wrote", show_default=False),
        path: Path = folder,
        to: Path = typer.Option(..., "-o", help="folder to write", show_default=False),
        formats: list[str] = typer.Option(["parquet", "csv"], "--format", help=f"{known_formats}; may be repeated"),
        max_bad: float | None = typer.Option(
            None,
            "--max-bad",
            min=0,
            max=1,
            help="share of records without a prediction above which nothing is written and the exit code is 3; none: as the "
            "model was made",
        ),
        convert: list[str] = CONVERT,
        option: list[str] = OPTION,
    ) -> None:
        """Write what a model says of every record of a folder."""
        _own(domain, model)
        from unlabeled.core.downstream.predict import predict as write

        with progress("predicting") as update:
            found = write(
                model,
                path,
                to,
                formats=formats,
                convert=convert,
                options=_options(option),
                max_bad=max_bad,
                on_progress=update,
            )
        out.print(f"{to}: predictions of {len(found.records)} records", markup=False)

    @app.command()
    def study(
        recipe: Path = RECIPE,
        overrides: list[str] = typer.Argument(None, help="changes to it, as key.sub=value", show_default=False),
        to: Path = typer.Option(..., "-o", help="study folder to write; goes on where it stopped", show_default=False),
    ) -> None:
        """Say whether pretraining pays on this task: few and all labels, against random weights and simple baselines."""
        read = _recipe(domain, recipe, overrides or [])
        from unlabeled.core.report import study as run_study
        from unlabeled.core.studies import render

        with progress("study") as update:
            found = run_study(read, to, update)
        out.print(render(found))
        out.print(f"study: {to / 'study.json'}", markup=False)
        out.print(f"report: {to / 'report.html'}", markup=False)

    add_export(app)
    add_curate(app, domain.name)
    for verb, target in domain.verbs.items():
        app.command(verb)(load(target))

    if domain.demo:

        @app.command()
        def demo(to: Path = typer.Option(Path("runs/demo"), "-o", help="folder to write")) -> None:
            """The whole way on real sample data: inspect, pretrain, study, verdict."""
            load(domain.demo)(to)

    return app


def _origin(text: str) -> tuple[Path, int | None]:
    """RUN or RUN@STEP."""
    run, at, step = text.rpartition("@")
    return (Path(run), int(step)) if at and step.isdigit() else (Path(text), None)


def _shifted(recipe: Path | None, overrides: Sequence[str] | None) -> list[str]:
    """The overrides, of which the first stands in the recipe's place where no recipe is named."""
    first = [str(recipe)] if recipe is not None and not recipe.is_file() else []
    return [*first, *(overrides or [])]


def _loss(values: Mapping[str, Any]) -> str:
    return f"loss {values['loss']:.4f}" if "loss" in values else ""


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise RequestError(f"the option {pair!r} is not name=value")
        values[name] = parsed(text, pair)
    return values


def _recipe(domain: Domain, path: Path, overrides: Sequence[str]) -> Any:
    recipe = read_recipe(path, overrides)
    if recipe.domain != domain.name:
        raise RequestError(f"{path} is a recipe for {recipe.domain}; use unlabeled-{recipe.domain}")
    return recipe


def _own(domain: Domain, bundle: Path) -> None:
    """Raises Incompatible where a bundle or a model is another domain's; whatever else is wrong shows when it is loaded."""
    try:
        found = json.loads((bundle / "bundle.json").read_text())["domain"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return
    if found != domain.name:
        raise Incompatible(f"{bundle} is for {found}; use unlabeled-{found}")


def main(name: str) -> None:
    sys.exit(run(build(find(name))))
