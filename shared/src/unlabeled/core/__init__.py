"""Unlabeled's core: pretraining for data nobody has labelled.

The functions below are imported when first used, so that `import unlabeled.core` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlabeled.core.bundle import load_bundle as load_bundle
    from unlabeled.core.contracts.recipe import read_recipe as read_recipe
    from unlabeled.core.evaluation.evaluate import embed as embed
    from unlabeled.core.evaluation.evaluate import evaluate as evaluate
    from unlabeled.core.pretraining import pretrain as pretrain
    from unlabeled.core.studies import study as study

_HOMES = {
    "embed": "unlabeled.core.evaluation.evaluate",
    "evaluate": "unlabeled.core.evaluation.evaluate",
    "load_bundle": "unlabeled.core.bundle",
    "pretrain": "unlabeled.core.pretraining",
    "read_recipe": "unlabeled.core.contracts.recipe",
    "study": "unlabeled.core.studies",
}

__all__ = ["embed", "evaluate", "load_bundle", "pretrain", "read_recipe", "study"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unlabeled.core' has no attribute {name!r}")
