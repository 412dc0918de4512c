"""Recipe: everything a run depends on, in one YAML file. Field descriptions are also help text and comments."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model, model_validator

from unlabeled.core.contracts.errors import RequestError
from unlabeled.core.contracts.spec import Allowed, Conversion

M = TypeVar("M", bound=BaseModel)


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Named(BaseModel):
    """A part by name, with its own options beside the name: `{name: simclr, temperature: 0.2}`."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class View(Named):
    input: str = Field("x", description="which input of the sample it changes")


class Data(Strict):
    path: Path = Field(description="folder of files, read recursively")
    options: dict[str, Any] = Field(default_factory=dict, description="options of the domain's reader")
    conversions: tuple[Conversion, ...] = Field(
        (), description="named conversions of the domain, written into the contract"
    )
    convert: tuple[Allowed, ...] = Field(("order", "units"), description="what may be converted without asking")
    normaliser: str = Field(
        "sensor",
        description="how values are scaled: none, standard, sensor, or one of the domain's with fixed constants",
    )
    window: tuple[float, ...] | None = Field(None, description="size of one item along each axis, in physical units")
    stride: tuple[float, ...] | None = Field(None, description="step from item to item; none: the window's size")
    min_valid: float = Field(0.5, ge=0, le=1, description="least valid share of an item")
    max_bad_fraction: float = Field(
        0.01, ge=0, le=1, description="largest share of unreadable records before a run stops"
    )
    hold_out: float = Field(0.0, ge=0, lt=1, description="share of the groups kept out of pretraining, for evaluation")
    groups: tuple[str, ...] | None = Field(None, description="keyed hashes of the only groups to use; none: all")
    keep: Path | None = Field(None, description="manifest of `curate`: only what it kept is used")


class Optimiser(Strict):
    name: Literal["adamw"] = "adamw"
    lr: float = Field(1e-3, gt=0, description="peak learning rate")
    weight_decay: float = Field(0.05, ge=0, description="not applied to biases, norms and tokens")
    weight_decay_final: float | None = Field(
        None, ge=0, description="weight decay at the last step, by half a cosine from the first; none: constant"
    )
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = Field(None, gt=0, description="largest gradient norm")


class Schedule(Strict):
    name: Literal["cosine", "wsd", "infinite", "constant"] = Field(
        "cosine",
        description="wsd and infinite: other runs may branch off before the decay, until which nothing depends on max_steps",
    )
    warmup: int = Field(0, ge=0, description="steps of linear warm-up")
    decay: int = Field(0, ge=0, description="wsd, infinite: steps of the final decay, linear or by a constant factor")
    cooldown: int = Field(0, ge=0, description="infinite: steps from the peak down to the constant rate")
    constant: float = Field(0.5, gt=0, le=1, description="infinite: the constant rate, as a share of the peak")
    final: float = Field(0.01, gt=0, le=1, description="infinite: the rate at the last step, as a share of the peak")

    @property
    def branches(self) -> bool:
        """Whether nothing before the decay depends on the length of the run."""
        return self.name in ("wsd", "infinite")

    def trunk(self, max_steps: int) -> int:
        """The steps of a run of this length before its decay, where the schedule branches; else 0."""
        return max(0, max_steps - self.decay) if self.branches else 0


class Trainer(Strict):
    loop: Literal["lightning", "plain"] = Field(
        "lightning", description="plain: the loop without Lightning, its oracle"
    )
    devices: int | Literal["auto"] = Field("auto", description="number of devices on this machine")
    nodes: int = Field(1, ge=1, description="machines, each with `devices`; the launcher starts one process a device")
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    precision: Literal["32", "bf16", "64"] = "32"
    accumulate: int = Field(
        1, ge=1, description="parts a batch is computed in, for less memory; only where the loss compares no items"
    )
    compile: bool = Field(False, description="compile the repeated blocks; a minute at the start, faster steps")
    workers: int = Field(0, ge=0, description="loader processes; never changes what is computed")
    threads: int | None = Field(None, ge=1, description="torch threads; none: torch's own choice")
    save_every: int = Field(100, ge=1, description="steps between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints kept")
    keep_every: int | None = Field(
        None, ge=1, description="steps between checkpoints that are saved and kept for good, to branch off from"
    )
    log_every: int = Field(10, ge=1, description="steps between log lines and looks at the health flags")
    max_skipped: int = Field(5, ge=1, description="non-finite steps in a row before the run goes back")
    rollbacks: int = Field(
        2, ge=0, description="times the run goes back to a checkpoint for non-finite steps before it stops"
    )
    tensorboard: bool = True
    loggers: tuple[Named, ...] = Field(
        (), description="further loggers by name (csv, tensorboard, mlflow, wandb or module:Class), with their options"
    )


Action = Literal["warn", "stop", "roll back"]


class Alarm(Strict):
    at: float = Field(ge=0, description="the limit")
    action: Action = Field(
        description="warn; stop: save and end with exit code 1; roll back: once to a checkpoint from before, then stop"
    )


class Health(Strict):
    """Alarms on what shows that a run learns nothing, looked at every `trainer.log_every` steps (see training.health).

    Limits that compare with the start of the run do so because an untrained encoder sets the scale: the spread and the
    rank of its embeddings depend on the architecture and the data, not on health.
    """

    patience: int = Field(5, ge=1, description="looks in a row that must show it before an alarm is raised")
    spread: Alarm = Field(
        Alarm(at=0.1, action="stop"),
        description="spread of the embeddings' directions, as a share of the start's: all items fall on one point",
    )
    rank: Alarm = Field(
        Alarm(at=0.1, action="warn"),
        description="effective rank of the embeddings, as a share of the start's: few directions are left",
    )
    loss: Alarm = Field(
        Alarm(at=0.005, action="stop"),
        description="loss, as a share of the start's: the task has become trivial, by collapse or by a leak",
    )
    target_std: Alarm = Field(
        Alarm(at=0.1, action="stop"), description="deviation of the targets over items, where the method tells it"
    )
    prototype_use: Alarm = Field(
        Alarm(at=0.25, action="stop"), description="prototypes in use, as a share of those that the batch could use"
    )
    teacher_gap: Alarm = Field(
        Alarm(at=1.0, action="warn"), description="distance of the teacher to the student over the student's norm"
    )
    gradient_vanishes: Alarm = Field(
        Alarm(at=1e-3, action="warn"), description="gradient norm, as a share of the start's: least"
    )
    gradient_explodes: Alarm = Field(
        Alarm(at=100.0, action="warn"), description="gradient norm, as a multiple of the start's: most"
    )

    @model_validator(mode="before")
    @classmethod
    def _partial(cls, values: Any) -> Any:
        """An alarm of which only one field is given keeps the other."""
        if not isinstance(values, Mapping):
            return values
        alarms = {n: f.default.model_dump() for n, f in cls.model_fields.items() if isinstance(f.default, Alarm)}
        return {k: {**alarms[k], **v} if k in alarms and isinstance(v, Mapping) else v for k, v in values.items()}


class Evaluation(Strict):
    window: tuple[float, ...] | None = Field(None, description="size of an evaluated item; none: data.window")
    stride: tuple[float, ...] | None = Field(None, description="step between evaluated items; none: the window's size")
    neighbours: int = Field(10, ge=1, description="k of kNN")


class Study(Strict):
    task: str = Field("classify", description="what is labelled: a head that classifies records, or that segments them")
    labels: Path | None = Field(None, description="CSV with columns key and label, or what the task reads")
    folds: Path | None = Field(
        None,
        description="CSV with columns key and fold: the records left out together; one without a fold is left out always. "
        "none: groups by lot",
    )
    forward: bool = Field(
        False,
        description="the names of the folds are in order of time: only earlier ones are trained on, and the first is not tested",
    )
    every: int = Field(
        1,
        ge=1,
        description="segmentation: every n-th cell along each axis is a point that is labelled, drawn and scored",
    )
    budgets: tuple[int | float, ...] = Field(
        (1, 0.1, 1.0), description="labelled records: an integer per class, a fraction of the training records"
    )
    groups_per_fold: int = Field(2, ge=1, description="groups left out together")
    starts: tuple[str, ...] = Field(
        (),
        description="off-the-shelf weights to compare with: timm:NAME, a bundle's folder, a weight file, FORMAT:FILE",
    )
    seeds: int = Field(5, ge=1, description="pretraining seeds")
    draws: int = Field(5, ge=1, description="label draws per budget")
    lr_grid: tuple[float, ...] = Field((3e-4, 1e-3, 3e-3), description="for every fine-tuned start alike")
    finetune_steps: int = Field(60, ge=1)
    finetune_batch: int = Field(64, ge=1, description="items per step of the fine-tuned starts")
    finetune_draws: int = Field(1, ge=1, description="label draws of the fine-tuned starts (they cost the most)")
    jobs: int = Field(2, ge=1, description="processes side by side")


class Stage(Strict):
    """A pretraining done before the recipe's own, on the same data; what it leaves out is as in the recipe.

    Its bundle is `stage:NAME` for every later stage and for the recipe: as `start`, or as an option of a method.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="what later stages call it")
    method: Named
    encoder: Named | None = None
    start: str | None = Field(None, description="weights to begin from; none: as in the recipe")
    views: tuple[View, ...] | None = None
    local_views: tuple[View, ...] | None = None
    optimiser: Optimiser | None = None
    schedule: Schedule | None = None
    batch_size: int | None = Field(None, ge=1)
    max_steps: int | None = Field(None, ge=1)
    seed: int | None = None


class Term(Named):
    weight: float = Field(1.0, gt=0, description="of the term, beside the method's own loss")


class Branch(Strict):
    """The run that this one branches off from: with its weights, its optimiser's state and its steps so far."""

    run: Path = Field(description="run folder, of a schedule that branches (wsd, infinite)")
    step: int | None = Field(None, ge=1, description="after how many steps; none: its last before the decay")


class Recipe(Strict):
    domain: str = Field(description="which package reads the data")
    data: Data
    method: Named
    encoder: Named
    views: tuple[View, ...] = Field((), description="applied in order, per item and per view")
    local_views: tuple[View, ...] = Field((), description="views of the small crops of multi-crop methods")
    start: str | None = Field(
        None,
        description="weights to begin from: a bundle's folder, timm:NAME, a weight file, FORMAT:FILE or stage:NAME",
    )
    branch: Branch | None = Field(None, description="the run to branch off from; none: this one begins at step 0")
    stages: tuple[Stage, ...] = Field((), description="pretrainings done before this one, in order")
    terms: tuple[Term, ...] = Field((), description="losses beside the method's own")
    plan: Named = Field(Named(name="uniform"), description="which items form which batch")
    optimiser: Optimiser = Optimiser()
    schedule: Schedule = Schedule()
    trainer: Trainer = Trainer()
    health: Health = Health()
    batch_size: int = Field(64, ge=1, description="items per optimiser step, over all devices")
    max_steps: int = Field(1000, ge=1, description="optimiser steps")
    seed: int = 0
    evaluation: Evaluation = Evaluation()
    study: Study = Study()


def nearest(name: str, known: Sequence[str]) -> str:
    """`"temprature" is unknown, did you mean temperature?`"""
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(sorted(known))}"
    return f"{name!r} is unknown, {hint}"


def _names_at(model: type[BaseModel], where: Sequence[int | str]) -> list[str]:
    """Field names of the model that the error location points into."""
    for part in where:
        annotation = model.model_fields[str(part)].annotation if str(part) in model.model_fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    return list(model.model_fields)


def validated(model: type[M], values: Mapping[str, Any], what: str) -> M:
    """`model(**values)`, with every fault as one sentence that names the place and the nearest valid name."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        lines = []
        for fault in error.errors():
            *where, last = fault["loc"] or ("",)
            place = ".".join(str(p) for p in fault["loc"])
            if fault["type"] == "extra_forbidden":
                lines.append(f"{place}: {nearest(str(last), _names_at(model, where))}")
            elif fault["type"] == "missing":
                lines.append(f"{place} is missing")
            elif fault["type"] == "value_error":  # our own words, which say what was given
                lines.append(f"{place}: {fault['msg'].removeprefix('Value error, ')}")
            else:
                lines.append(f"{place}: {fault['msg'][:1].lower()}{fault['msg'][1:]}, got {fault['input']!r}")
        raise RequestError(f"{what}: {'; '.join(lines)}") from None


def called(function: Callable[..., Any], given: Sequence[str], options: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The options that a view or a conversion is called with, checked against its signature; `given` are no options.

    Raises RequestError for an unknown name, a missing one, or a value of another type.
    """
    hints = get_type_hints(function)
    fields = {
        name: (hints.get(name, Any), ... if p.default is p.empty else p.default)
        for name, p in inspect.signature(function).parameters.items()
        if name not in given
    }
    model = create_model("Options", __config__=ConfigDict(extra="forbid"), **fields)  # type: ignore[call-overload]
    checked = validated(model, options, what)
    return {name: getattr(checked, name) for name in options}


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe at `path` with `key.sub=value` overrides; relative paths are relative to the file."""
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise RequestError(f"{path}: no such recipe; make one with `init PATH -o {path.name}`") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read as a recipe: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RequestError(f"{path} holds no mapping; make one with `init PATH -o {path.name}`")
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise RequestError(f"the override {override!r} is not key=value")
        *parents, last = name.split(".")
        at = values
        for parent in parents:
            if at.get(parent) is None:  # a section that is left out, or written as none
                at[parent] = {}
            at = at[parent]
            if not isinstance(at, dict):
                raise RequestError(f"the override {override!r} goes into {parent}, which is no section")
        at[last] = parsed(text, override)
    recipe = validated(Recipe, values, str(path))
    paths = {name: file and _beside(path, file) for name, file in _paths(recipe.data).items()}
    data = recipe.data.model_copy(update=paths)
    files = {name: file and _beside(path, file) for name, file in _files(recipe.study).items()}
    starts = tuple(located(start, path.parent) for start in recipe.study.starts)
    study = recipe.study.model_copy(update={**files, "starts": starts})
    return _begun(recipe.model_copy(update={"data": data, "study": study}), path.parent)


def parsed(text: str, pair: str) -> Any:
    """The value in `key=value`, read as YAML."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise RequestError(f"{pair!r}: {text!r} is no value in YAML; quote it, or close its brackets") from None


def _beside(recipe: Path, path: Path) -> Path:
    return path.expanduser() if path.expanduser().is_absolute() else (recipe.parent / path)


def _paths(data: Data) -> dict[str, Path | None]:
    return {"path": data.path, "keep": data.keep}


def _files(study: Study) -> dict[str, Path | None]:
    return {"labels": study.labels, "folds": study.folds}


WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".npz")


def located(start: str, folder: Path) -> str:
    """Weights as a recipe names them, with a relative file or folder put below `folder`.

    What follows a colon is a file where it is there or ends like one; else a name, as in `timm:NAME`. `KIND:NAME=FILE` is
    both.
    """
    kind, colon, name = start.partition(":")
    if colon and "=" in name and not (folder / name).is_file():
        name, _, beside = name.partition("=")
        return f"{kind}:{name}={folder / Path(beside).expanduser()}"
    file = folder / Path(name if colon else start).expanduser()
    named = bool(colon) and not file.is_file() and not name.endswith(WEIGHT_FILES)
    if start == "random" or kind == "stage" or named:
        return start
    return f"{kind}:{file}" if colon else str(file)


def absolute(recipe: Recipe) -> Recipe:
    """The same recipe wherever it is read: the paths of data, labels and weights to compare with, made absolute."""
    paths = {name: file and file.expanduser().resolve() for name, file in _paths(recipe.data).items()}
    data = recipe.data.model_copy(update=paths)
    files = {name: file and file.expanduser().resolve() for name, file in _files(recipe.study).items()}
    starts = tuple(located(start, Path.cwd()) for start in recipe.study.starts)
    study = recipe.study.model_copy(update={**files, "starts": starts})
    return _begun(recipe.model_copy(update={"data": data, "study": study}), Path.cwd())


def _begun(recipe: Recipe, folder: Path) -> Recipe:
    """The same recipe with the weights it begins from, those of its teacher and its plan, and those of its stages, located."""

    def own(part: Any) -> dict[str, Any]:
        method = part.method
        named = {k: v for k in ("teacher", "text_start") if isinstance(v := method.options.get(k), str) and v}
        method = method.model_copy(update={k: located(v, folder) for k, v in named.items()})
        return {"start": part.start and located(part.start, folder), "method": method}

    stages = tuple(s.model_copy(update=own(s)) for s in recipe.stages)
    branch = recipe.branch and recipe.branch.model_copy(update={"run": _beside(folder / "recipe", recipe.branch.run)})
    given = {k: v for k in ("bundle", "file") if isinstance(v := recipe.plan.options.get(k), str) and v}
    plan = recipe.plan.model_copy(update={k: located(v, folder) for k, v in given.items()})
    return recipe.model_copy(update={**own(recipe), "stages": stages, "branch": branch, "plan": plan})


def dump(recipe: Recipe, options: BaseModel | None = None, method: type[BaseModel] | None = None) -> str:
    """The recipe as YAML, every field with its description as a comment.

    options  `data.options` as the domain's reader understands them, to be explained as well; none: as they stand in the recipe
    method   the options of the recipe's method, likewise; one that has no default and is not given is null
    """
    if options is not None:
        recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"options": options})})
    if method is not None:
        recipe = recipe.model_copy(update={"method": _explained(recipe.method, method)})
    lines: list[str] = []
    _lines(recipe, 0, lines)
    return "\n".join(lines) + "\n"


def _explained(given: Named, options: type[BaseModel]) -> BaseModel:
    """The method's name and all of its options, with their descriptions."""
    known = options.model_fields
    if any(field.is_required() and name not in given.options for name, field in known.items()):
        values = {
            name: None if f.is_required() else f.get_default(call_default_factory=True) for name, f in known.items()
        }
        values |= given.options
    else:
        checked = validated(options, given.options, "method")
        values = {name: getattr(checked, name) for name in known}
    fields: dict[str, Any] = {name: (Any, Field(description=field.description)) for name, field in known.items()}
    model: Any = create_model("Method", name=(str, ...), **fields)
    made: BaseModel = model.model_construct(name=given.name, **values)
    return made


def _lines(model: BaseModel, depth: int, out: list[str]) -> None:
    pad = "  " * depth
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        note = f"  # {info.description}" if info.description else ""
        if isinstance(value, BaseModel) and not isinstance(value, Named) and type(value).model_fields:
            out.append(f"{pad}{name}:{note}")
            _lines(value, depth + 1, out)
        else:
            text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10**6, sort_keys=False)
            out.append(f"{pad}{name}: {text.strip().removesuffix('...').strip()}{note}")


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value
