"""The command lines are frozen: a verb or flag that comes, goes or changes its name must change this list too."""

import inspect
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.main import app
from unlabeled.core.cli.methods import other
from unlabeled.core.contracts.domain import domain, domains, methods

SHARED = {
    "inspect": ["--json", "--max-bad", "--option", "PATH"],
    "init": ["--method", "--option", "-o", "PATH"],
    "pretrain": ["--branch", "--resume", "-o", "OVERRIDES", "RECIPE"],
    "evaluate": ["--allow-seen", "--by", "--convert", "--json", "--labels", "--option", "BUNDLE", "PATH"],
    "rank": ["--allow-seen", "--convert", "--json", "--labels", "--option", "BUNDLES", "PATH"],
    "embed": ["--convert", "--option", "-o", "BUNDLE", "PATH"],
    "finetune": ["--convert", "--json", "--labels", "--option", "--task", "-o", "BUNDLE", "PATH", "SETTINGS"],
    "predict": ["--convert", "--format", "--max-bad", "--option", "-o", "MODEL", "PATH"],
    "study": ["-o", "OVERRIDES", "RECIPE"],
    "export": ["--on", "--size", "--sparsity", "--to", "-o", "BUNDLE"],
    "curate": ["--bundle", "--embeddings", "--json", "--max-bad", "--option", "-o", "PATH", "STEPS"],
}
SURFACE = {
    "unlabeled": {
        "domains": ["--json"],
        "methods": ["--json", "NAME"],
        "doctor": ["--json"],
        "compare": ["--json", "RUNS"],
        "report": ["RUN"],
        "export": SHARED["export"],
        "atoms": ["--classes", "--per-class", "--seed", "--size", "-o"],
        "curate": sorted([*SHARED["curate"], "--domain"]),
    },
    "unlabeled-biosignal": {**SHARED, "demo": ["-o"]},
    "unlabeled-earth": {
        **SHARED,
        "inputs": ["--json", "--normalisers", "--sizes", "--start", "-o", "OVERRIDES", "RECIPE"],
        "demo": ["-o"],
    },
    "unlabeled-network": {
        **SHARED,
        "flows": ["--json", "--max-bad", "-o", "OVERRIDES", "PATH"],
        "labels": ["--column", "--option", "--partial", "-o", "PATH", "TABLE"],
        "leakcheck": [
            "--allow-seen",
            "--bundle",
            "--convert",
            "--json",
            "--labels",
            "--option",
            "--seeds",
            "-o",
            "PATH",
        ],
        "anonymise": ["--key", "--max-bad", "--new-key", "--payload", "--ports", "--shift", "-o", "PATH"],
        "anomalies": [
            "--allow-seen",
            "--convert",
            "--json",
            "--labels",
            "--neighbours",
            "--normal",
            "--option",
            "-o",
            "BUNDLE",
            "PATH",
        ],
        "tokenizer": ["--size", "-o", "URLS"],
        "demo": ["-o"],
    },
}
HEAVY = {"torch", "lightning"}


def surface(made: typer.Typer) -> dict[str, list[str]]:
    command = typer.main.get_command(made)
    return {name: sorted(_name(p) for p in verb.params if p.name != "help") for name, verb in command.commands.items()}


def _name(param) -> str:
    longest = max(param.opts, key=len)
    return longest if longest.startswith("-") else longest.upper()


def test_the_command_lines_are_frozen() -> None:
    assert surface(app) == SURFACE["unlabeled"]
    for name in ("biosignal", "earth", "network"):
        assert surface(build(domain(name))) == SURFACE[f"unlabeled-{name}"]


def test_every_domain_has_the_shared_verbs() -> None:
    for d in domains().values():
        made = surface(build(d))
        assert {name: made[name] for name in SHARED} == SHARED


def python(code: str) -> tuple[int, str, float]:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr, time.perf_counter() - start


@pytest.mark.parametrize(
    "words", [["--help"], ["domains", "--json"], ["methods", "--json"], ["nonsense"], ["methods", "--nonsense"]]
)
def test_listing_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from unlabeled.core.cli.main import app; from unlabeled.core.cli.shell import run;"
        f"code = run(app, {words!r}); assert code == (2 if 'nonsense' in ''.join({words!r}) else 0), code;"
        f"heavy = {HEAVY!r} & set(sys.modules); assert not heavy, heavy"
    )
    status, text, _ = python(code)
    assert status == 0, text


def test_every_method_is_listed_whole() -> None:
    """A card without a paper, a target that loads or a test that exists fails the suite."""
    root = Path(__file__).parents[2]
    known = {line.split("\t")[0] for line in (root / "tests/contract/seeds.txt").read_text().splitlines()}
    from unlabeled.core.contracts import load

    for card in methods().values():
        if card.target.startswith("toydomains"):
            continue
        assert load(card.target), card.name
        assert card.summary and card.family
        assert card.paper or card.kind == "baseline", card.name
        assert (root / card.test).is_file(), card.test
        assert set(card.seeds) <= known, card.seeds


def test_any_card_is_described_by_name(capsys) -> None:
    """A method in full; of the others what their target says of itself, in which case the docstring of `logme`."""
    from unlabeled.core.cli.shell import run
    from unlabeled.core.measures.logme import logme

    assert run(app, ["methods", "logme"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("logme (measure): ") and "arXiv 2102.11005" in text
    assert inspect.cleandoc(logme.__doc__ or "") in text
    assert text.endswith("target: unlabeled.core.measures.logme:logme\ntest: shared/tests/measures/test_logme.py\n")
    assert run(app, ["methods", "logme", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["card"]["name"] == "logme" and found["card"]["kind"] == "measure" and "alpha and beta" in found["text"]
    assert run(app, ["methods", "simclr"]) == 0
    assert "options:" in capsys.readouterr().out
    assert run(app, ["methods", "logmee"]) == 2
    assert "did you mean 'logme'" in capsys.readouterr().err
    for card in methods().values():
        if card.kind != "method" and not card.target.startswith("toydomains"):
            assert len(other(card)) > 20, card.name


def test_lists_are_json(capsys) -> None:
    from unlabeled.core.cli.shell import run

    assert run(app, ["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"name", "kind", "family", "paper", "seeds", "test"} <= set(rows[0])
    assert run(app, ["domains", "--json"]) == 0
    assert "biosignal" in [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert run(app, ["doctor", "--json"]) == 0
    assert all(check["ok"] for check in json.loads(capsys.readouterr().out)["checks"])
