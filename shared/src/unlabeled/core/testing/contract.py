"""The contract every domain must pass. A package subclasses `DomainContract` and says how to make its files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from unlabeled.core.bundle import load_bundle
from unlabeled.core.cli.domain import build
from unlabeled.core.cli.init import templates
from unlabeled.core.cli.shell import run
from unlabeled.core.contracts import Domain, Incompatible, Sample
from unlabeled.core.contracts.domain import domain, load, methods
from unlabeled.core.contracts.recipe import Recipe, dump, read_recipe, validated
from unlabeled.core.data.corpus import Corpus
from unlabeled.core.data.loading import Collate
from unlabeled.core.data.manifest import reader
from unlabeled.core.downstream.finetune import finetune
from unlabeled.core.downstream.kinds.base import METRICS
from unlabeled.core.downstream.predict import predict
from unlabeled.core.downstream.write import writers
from unlabeled.core.pretraining import pretrain

QUICK: dict[str, Any] = {
    "batch_size": 4,
    "max_steps": 3,
    "trainer": {"loop": "plain", "threads": 1, "save_every": 2, "tensorboard": False, "accelerator": "cpu"},
}


class DomainContract:
    """Subclass it, name the domain, give `write` and `recipe`; pytest then runs every clause.

    name    of the domain. window  of an item, or None. options  of the reader.
    recipe  method, encoder, views and what else a run of three steps on the files needs.
    formats that a classifier's predictions are written in; none: every one of the domain.
    """

    name: str
    recipe: dict[str, Any]
    data: dict[str, Any] = {}
    formats: tuple[str, ...] | None = None

    def write(self, folder: Path) -> Path:
        """Write a few good files, of at least three groups, and return the folder."""
        raise NotImplementedError  # pragma: no cover

    @pytest.fixture
    def domain(self) -> Domain:
        return domain(self.name)

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return self.write(tmp_path / "files")

    @pytest.fixture
    def quick(self, folder: Path) -> Recipe:
        """A recipe of three steps on the files."""
        values = {**QUICK, **self.recipe, "domain": self.name, "data": {"path": folder, "stride": None, **self.data}}
        return validated(Recipe, values, "the contract's recipe")

    def test_parts_exist(self, domain: Domain) -> None:
        """Every name the domain declares leads to something, and it is listed with its methods."""
        targets = [domain.reader, domain.options, *domain.conversions.values(), *domain.views.values()]
        targets += [*domain.encoders.values(), *domain.samples.values(), *domain.verbs.values()]
        targets += domain.writers.values()
        targets += [card.target for card in (*domain.methods, *domain.baselines)]
        for target in [t for t in (*targets, domain.demo) if t]:
            assert callable(load(target)), target
        assert {c.name for c in (*domain.methods, *domain.baselines)} <= set(methods())

    def test_reader_gives_the_contract(self, domain: Domain, quick: Recipe) -> None:
        corpus = Corpus.open(domain, quick.data)
        assert len(corpus) >= 3
        assert len(set(corpus.groups)) >= 3
        for i in range(len(corpus)):
            sample = corpus.record(i)
            for name, spec in corpus.specs.items():
                x = sample.inputs[name]
                assert (x.channels, x.units, x.layout) == (spec.channels, spec.units, spec.layout)
                assert torch.isfinite(torch.as_tensor(x.data)).all()

    def test_a_sample_alone_equals_itself_in_a_batch(self, domain: Domain, quick: Recipe) -> None:
        """Padding changes nothing: features of the shortest item, alone and beside the longest, to 1e-5."""
        from unlabeled.core.build import build_encoder

        corpus = Corpus.open(domain, quick.data).normalised("sensor")
        samples = [corpus.record(i) for i in range(min(8, len(corpus)))]
        encoder = build_encoder(quick, domain, corpus.specs, seed=0).eval()
        collate = Collate(corpus.specs)
        with torch.inference_mode():
            together = encoder(collate(samples).inputs).pooled
            for i, sample in enumerate(samples):
                torch.testing.assert_close(
                    encoder(collate([sample]).inputs).pooled[0], together[i], rtol=1e-5, atol=1e-5
                )

    def test_pretrain_gives_a_bundle_that_loads(self, quick: Recipe, tmp_path: Path) -> None:
        """Three steps, bundle, load: every tensor matched, the same output, no raw group and no path of this machine."""
        run_folder = tmp_path / "run"
        bundle = pretrain(quick, run_folder)
        encoder = load_bundle(bundle)
        assert not (encoder.report.missing or encoder.report.unexpected or encoder.report.reshaped)
        lines = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [0, 1, 2]
        assert all(line["loss"] == line["loss"] for line in lines)
        written = b"".join(p.read_bytes() for p in sorted(bundle.iterdir()))
        assert str(tmp_path).encode() not in written
        for sample in self.samples(quick):
            assert b'"' + sample.group.encode() + b'"' not in written

    def samples(self, recipe: Recipe) -> list[Sample]:
        source = reader(domain(self.name), recipe.data)
        return [s for f in source.files(recipe.data.path) for s in source.read(f)]

    def test_a_bundle_refuses_what_its_contract_does_not_allow(
        self, domain: Domain, quick: Recipe, folder: Path
    ) -> None:
        """Another channel name, another unit: Incompatible, in one sentence."""

        corpus = Corpus.open(domain, quick.data)
        for name, spec in corpus.specs.items():
            renamed = spec.model_copy(update={"channels": ("other", *spec.channels[1:])})
            unit = spec.model_copy(update={"units": ("furlong", *spec.units[1:])})
            for wrong, word in ((renamed, "missing"), (unit, "furlong")):
                with pytest.raises(Incompatible, match=word) as caught:
                    Corpus.open(domain, quick.data, specs={**corpus.specs, name: wrong})
                assert "\n" not in str(caught.value)

    def test_a_model_is_tuned_and_predicts(self, domain: Domain, quick: Recipe, folder: Path, tmp_path: Path) -> None:
        """Three steps on labels by turns, and a class with probabilities for every record, in every format."""
        (tmp_path / "r.yaml").write_text(dump(quick))
        keys = [row.key for row in Corpus.open(domain, quick.data).rows]
        lines = [f"{key},{'even' if i % 2 == 0 else 'odd'}" for i, key in enumerate(keys)]
        (tmp_path / "labels.csv").write_text("\n".join(["key,label", *lines]) + "\n")
        settings: dict[str, Any] = {"steps": 3, "batch_size": 4, "accelerator": "cpu"}
        model = finetune(tmp_path / "r.yaml", folder, tmp_path / "labels.csv", "classify", tmp_path / "m", **settings)
        found = predict(model, folder, tmp_path / "p", formats=self.formats or list(writers(domain)))
        assert [r.key for r in found.records] == keys
        for record in found.records:
            assert record.probabilities is not None and sum(record.probabilities.values()) == pytest.approx(1, abs=1e-9)
            assert record.prediction == max(record.probabilities, key=lambda name: (record.probabilities or {})[name])
        for head in domain.heads:
            assert head.metric in METRICS[head.kind], head.name

    def test_shipped_recipes_are_valid_and_complete(self, domain: Domain) -> None:
        """Every shipped recipe names parts that exist, and comes back unchanged from being written with its comments."""
        for name, values in templates(domain).items():
            recipe = validated(Recipe, values, name)
            assert recipe.domain == domain.name
            assert recipe.method.name in methods()
            assert all(view.name in domain.views for view in recipe.views)

    def test_a_recipe_survives_being_written(self, quick: Recipe, tmp_path: Path) -> None:
        (tmp_path / "r.yaml").write_text(dump(quick))
        assert read_recipe(tmp_path / "r.yaml").model_dump(mode="json") == quick.model_dump(mode="json")

    def test_command_line(self, domain: Domain, quick: Recipe, folder: Path, tmp_path: Path, capsys: Any) -> None:
        """inspect, pretrain, embed in process; their exit codes; an empty folder is 2, a file of rubbish is named."""
        app = build(domain)
        options = [f"-O{k}={json.dumps(v)}" for k, v in quick.data.options.items()]
        assert run(app, ["inspect", str(folder), "--json", *options]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["records"] == len(self.samples(quick))
        assert found["unreadable"] == []
        (tmp_path / "r.yaml").write_text(dump(quick))
        assert run(app, ["pretrain", str(tmp_path / "r.yaml"), "-o", str(tmp_path / "run")]) == 0
        assert run(app, ["pretrain", str(tmp_path / "r.yaml"), "-o", str(tmp_path / "run")]) == 2
        assert run(app, ["pretrain", "--resume", str(tmp_path / "run")]) == 0
        assert run(app, ["embed", str(tmp_path / "run/bundle"), str(folder), "-o", str(tmp_path / "e.parquet")]) == 0
        (tmp_path / "empty").mkdir()
        for verb in (["inspect"], ["embed", str(tmp_path / "run/bundle"), "-o", str(tmp_path / "none.parquet")]):
            assert run(app, [*verb, str(tmp_path / "empty")]) == 2
        assert not (tmp_path / "none.parquet").exists()
        rubbish = folder / next(p for p in sorted(folder.rglob("*")) if p.suffix == self.suffix).name.replace(
            ".", "-bad."
        )
        rubbish.write_bytes(b"\x00rubbish")
        capsys.readouterr()
        assert run(app, ["inspect", str(folder), "--json", *options]) == 3
        assert [b["file"] for b in json.loads(capsys.readouterr().out)["unreadable"]] == [rubbish.name]
        assert run(app, ["pretrain", str(tmp_path / "r.yaml"), "-o", str(tmp_path / "other")]) == 3
        assert not (tmp_path / "other" / "bundle").exists()
        shutil.rmtree(folder)

    suffix: str

    def test_help_imports_nothing_heavy(self) -> None:
        """One real process: `--help` and a usage error leave torch and lightning alone."""
        code = (
            "import sys; from unlabeled.core.cli.domain import build; from unlabeled.core.cli.shell import run;"
            "from unlabeled.core.contracts.domain import domain;"
            f"app = build(domain({self.name!r})); assert run(app, ['--help']) == 0; assert run(app, ['nonsense']) == 2;"
            "sys.exit(bool({'torch', 'lightning'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
