"""Off-the-shelf starts of a study: what they are called, what they have seen, and which are absent here."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePath
from typing import Any

from unlabeled.core.bundle import Bundle, read_bundle
from unlabeled.core.bundle.starts import start_encoder
from unlabeled.core.contracts import Absent, Incompatible, InputSpec, Leakage, RequestError
from unlabeled.core.contracts.domain import domain
from unlabeled.core.contracts.recipe import Recipe
from unlabeled.core.data.groups import check_disjoint, key_id, project_key
from unlabeled.core.downstream.model import patch_of
from unlabeled.core.files import without_folders
from unlabeled.core.nn.base import Encoder
from unlabeled.core.studies.units import of_points


def named(recipe: Recipe) -> dict[str, str]:
    """Name -> weights, of `study.starts`. A name holds no path: `timm:NAME`, `RUN/bundle`, `weights.safetensors`.

    Raises RequestError where two have one name.
    """
    found: dict[str, str] = {}
    for start in recipe.study.starts:
        name = title(start)
        if name in found:
            raise RequestError(f"study.starts: two are called {name!r}; rename the folder or the file of one")
        found[name] = start
    return found


def title(start: str) -> str:
    kind, colon, file = start.partition(":")
    if kind == "timm" and not Path(file).is_file():
        return start
    name, equals, file = file.rpartition("=")
    path = PurePath(file if colon else start)
    short = f"{path.parent.name}/{path.name}" if path.name == "bundle" else path.name
    return f"{kind}:{PurePath(name).name}{equals}{short}" if colon else short


def check_unseen(recipe: Recipe, tested: Collection[str]) -> None:
    """Raises Leakage where weights that the study begins from or compares with may have been made from groups it tests on."""
    begun = [recipe.start, *(stage.start for stage in recipe.stages)]
    for start in [*(s for s in begun if s), *recipe.study.starts]:
        bundle = _bundle(start)
        if bundle is None:
            continue
        if bundle.about["key"] != key_id(project_key()):
            raise Leakage(
                f"{title(start)} was made under another project key, so nobody knows which of the tested groups it has "
                "seen; name its key in UNLABELED_KEY, or leave it out"
            )
        check_disjoint(bundle.groups, tested, f"{title(start)}, against the groups the study tests on")


def _bundle(start: str) -> Bundle | None:
    return read_bundle(Path(start)) if (Path(start) / "bundle.json").is_file() else None


def examined(recipe: Recipe, specs: Mapping[str, InputSpec]) -> dict[str, dict[str, Any]]:
    """What each start is here: {"sha256", "adapted", "overruled"}, or {"absent": reason} where it cannot be had.

    Raises RequestError for what is no start, or has no tokens on a grid where the study is one of points, Incompatible where
    the weights do not fit the data.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, start in named(recipe).items():
        try:
            encoder = _encoder(recipe, start, specs, recipe.seed)
            if of_points(recipe):
                patch_of(encoder)
            report = encoder.report
        except Absent as reason:
            found[name] = {"absent": without_folders(str(reason))}
        except Incompatible as error:
            raise Incompatible(f"study.starts, {name}: {error}") from None
        else:
            notes = {
                what: [without_folders(line) for line in getattr(report, what)] for what in ("adapted", "overruled")
            }
            found[name] = {"sha256": report.start["sha256"], **notes}
    return found


def encoders(
    recipe: Recipe, about: Mapping[str, Mapping[str, Any]], specs: Mapping[str, InputSpec], seed: int
) -> dict[str, Encoder]:
    """The encoders of the starts that are here, for these inputs. about: what `examined` found.

    Raises RequestError where the weights are no longer those.
    """
    found = {}
    for name, start in named(recipe).items():
        if "absent" in about[name]:
            continue
        found[name] = _encoder(recipe, start, specs, seed)
        if found[name].report.start["sha256"] != about[name]["sha256"]:
            raise RequestError(f"{name} changed since the study was planned; start a new one")
    return found


def _encoder(recipe: Recipe, start: str, specs: Mapping[str, InputSpec], seed: int) -> Encoder:
    return start_encoder(start, domain(recipe.domain), specs, recipe.encoder, seed)
