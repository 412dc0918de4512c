"""The budget: everything that is fixed before a run, from budget.yaml, and the recipe of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from unlabeled.core.contracts.recipe import Optimiser, Recipe, Schedule, Strict, View, validated

FILE = Path(__file__).with_name("budget.yaml")
TRAINER = {"loop": "plain", "accelerator": "cpu", "threads": 1, "tensorboard": False}


class Data(Strict):
    seed: int
    test_forms: int
    validation_forms: int
    labels_per_class: int
    draws: int


class Family(Strict):
    """What all methods of one encoder share. The encoder's name is the family's unless it says another."""

    encoder: dict[str, Any]
    steps: int
    views: tuple[View, ...]
    optimiser: Optimiser
    schedule: Schedule


class Row(Strict):
    """One method. What it does not say is the family's."""

    encoder: str = Field(description="the family")
    options: dict[str, Any] = Field(default_factory=dict)
    local_views: tuple[View, ...] = ()
    optimiser: dict[str, Any] = Field(default_factory=dict)

    @property
    def teacher(self) -> str:
        """The method of the stage that makes this one's teacher, trained on the same budget; "" where there is none."""
        named = self.options.get("teacher", "")
        return named.removeprefix("stage:") if isinstance(named, str) else ""


class Budget(Strict):
    data: Data
    seeds: tuple[int, ...]
    choosing_seed: int
    batch: int
    families: dict[str, Family]
    methods: dict[str, Row]
    left_out: dict[str, str] = Field(default_factory=dict, description="methods without a row, and why")
    peers: tuple[str, ...]

    def values(self, method: str, seed: int) -> dict[str, Any]:
        """What a run of this method is made of, as a recipe file would say it."""
        row = self.methods[method]
        family = self.families[row.encoder]
        plain = self.model_dump(mode="json", exclude_unset=True)
        shared = plain["families"][row.encoder]
        return {
            "domain": "digits",
            "data": {"path": "digits"},
            "method": {"name": method, **row.options},
            "encoder": {"name": row.encoder, **family.encoder},
            "views": shared["views"],
            "local_views": plain["methods"][method].get("local_views", []),
            "optimiser": {**shared["optimiser"], **row.optimiser},
            "schedule": shared["schedule"],
            "batch_size": self.batch,
            "max_steps": family.steps,
            "seed": seed,
            "trainer": {**TRAINER, "save_every": family.steps},
        }

    def recipe(self, method: str, seed: int) -> Recipe:
        return validated(Recipe, self.values(method, seed), f"{FILE.name}: {method}")


def read(path: Path = FILE) -> Budget:
    return validated(Budget, yaml.safe_load(path.read_text()), path.name)
