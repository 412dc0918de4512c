"""The README's example runs as it stands, and names what is there."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from unlabeled.core.cli.domain import build
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts.domain import domain

from .data.captures import START, merged, session, write_pcap

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_example_in_python(tmp_path, monkeypatch):
    """On six captures of four flows, with the recipe of `init` cut to three steps: a row for each flow."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "key").write_text("0123456789abcdef" * 4)
    monkeypatch.setenv("UNLABELED_KEY", str(tmp_path / "key"))
    data = tmp_path / "my-captures"
    data.mkdir()
    for i in range(6):
        flows = (session(sport=9 + n, data=[(0, 50 + 9 * i + n)], start=START + n * 10**10) for n in range(4))
        write_pcap(data / f"c{i}.pcap", merged(*flows))
    assert run(build(domain("network")), ["init", "my-captures", "-o", "recipe.yaml"]) == 0
    recipe = tmp_path / "recipe.yaml"
    text = re.sub(r"^max_steps: \d+", "max_steps: 3", recipe.read_text(), flags=re.MULTILINE)
    for slow, quick in (("loop: lightning", "loop: plain"), ("tensorboard: true", "tensorboard: false")):
        assert slow in text
        text = text.replace(slow, quick)
    recipe.write_text(text)
    (code,) = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)
    assert len([line for line in code.splitlines() if line and not line.startswith("from ")]) <= 5
    exec(compile(code, str(README), "exec"), {})
    table = pq.read_table(tmp_path / "embeddings.parquet")
    assert table["key"].to_pylist() == [f"c{i}#{n}" for i in range(6) for n in range(4)]
    assert {"key", "group", "embedding"} <= set(table.column_names)


def test_every_verb_and_format_is_named():
    text = README.read_text()
    known = domain("network")
    for verb in known.verbs:
        assert f"| `{verb}" in text, verb
    for name in known.writers:
        assert f"--format {name}" in text
    for head in known.heads:
        assert f"| `{head.name}` |" in text
