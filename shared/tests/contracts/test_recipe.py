"""Recipes: every fault is one sentence that names the place and the mend."""

from pathlib import Path

import pytest
from pydantic import BaseModel, Field

from unlabeled.core.contracts import RequestError
from unlabeled.core.contracts.recipe import Recipe, dump, read_recipe

TEXT = "domain: d\ndata: {path: files}\nmethod: {name: mae, mask_ratio: 0.6}\nencoder: {name: tokens}\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT)
    return path


def test_paths_are_beside_the_file_and_overrides_reach_in(file: Path) -> None:
    recipe = read_recipe(file, ["optimiser.lr=0.01", "method.mask_ratio=0.5", "study.budgets=[2, 0.5]"])
    assert recipe.data.path == file.parent / "files"
    assert recipe.optimiser.lr == 0.01
    assert recipe.method.options == {"mask_ratio": 0.5}
    assert recipe.study.budgets == (2, 0.5)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optimiser.learning_rate=1", "optimiser.learning_rate: 'learning_rate' is unknown, known:"),
        ("optimizer.lr=1", "'optimizer' is unknown, did you mean 'optimiser'?"),
        ("data.windw=[1]", "data.windw: 'windw' is unknown, did you mean 'window'?"),
        ("batch_size=0", "batch_size: input should be greater than or equal to 1, got 0"),
        ("trainer.loop=ray", "trainer.loop: input should be 'lightning' or 'plain', got 'ray'"),
        ("batch_size", "the override 'batch_size' is not key=value"),
        ("seed.x=1", "which is no section"),
    ],
)
def test_faults_are_one_sentence(file: Path, override: str, sentence: str) -> None:
    text = TEXT + ("seed: 1\n" if override.startswith("seed") else "")
    file.write_text(text)
    with pytest.raises(RequestError) as caught:
        read_recipe(file, [override])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a: [", "is not YAML"), ("- 1", "holds no mapping"), ("domain: d", "data is missing; method is missing")],
)
def test_files_that_are_no_recipe(file: Path, text: str, sentence: str) -> None:
    file.write_text(text)
    with pytest.raises(RequestError, match=sentence):
        read_recipe(file)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no such recipe; make one with `init"):
        read_recipe(tmp_path / "none.yaml")


def test_every_described_field_is_explained_where_it_is_written(file: Path) -> None:
    recipe = read_recipe(file)
    text = dump(recipe)
    file.write_text(text)
    assert read_recipe(file) == recipe
    for name, info in Recipe.model_fields.items():
        if info.description:
            line = next(line for line in text.splitlines() if line.startswith(f"{name}:"))
            assert line.endswith(f"# {info.description}")


def test_options_of_the_reader_are_explained_where_they_are_given(file: Path) -> None:
    class Options(BaseModel):
        sensor: str | None = Field(None, description="what took the images")
        bands: tuple[str, ...] = ()

    class Nothing(BaseModel):
        pass

    recipe = read_recipe(file)
    text = dump(recipe, Options(bands=("a", "b")))
    assert "    sensor: null  # what took the images\n    bands: [a, b]\n" in text
    file.write_text(text)
    assert read_recipe(file).data.options == {"sensor": None, "bands": ["a", "b"]}
    assert "  options: {}  # " in dump(recipe, Nothing())
