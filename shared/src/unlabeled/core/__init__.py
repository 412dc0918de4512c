"""Unlabeled's core: pretraining for data nobody has labelled.

The functions below are imported when first used, so that `import unlabeled.core` stays light.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unlabeled.core.bundle import load_bundle as load_bundle
    from unlabeled.core.bundle.export import export as export
    from unlabeled.core.contracts.recipe import read_recipe as read_recipe
    from unlabeled.core.downstream.finetune import finetune as finetune
    from unlabeled.core.downstream.predict import predict as predict
    from unlabeled.core.downstream.save import load_model as load_model
    from unlabeled.core.evaluation.evaluate import embed as embed
    from unlabeled.core.evaluation.evaluate import evaluate as evaluate
    from unlabeled.core.report import pretrain as pretrain
    from unlabeled.core.report import study as study

_HOMES = {
    "embed": "unlabeled.core.evaluation.evaluate",
    "evaluate": "unlabeled.core.evaluation.evaluate",
    "export": "unlabeled.core.bundle.export",
    "finetune": "unlabeled.core.downstream.finetune",
    "load_bundle": "unlabeled.core.bundle",
    "load_model": "unlabeled.core.downstream.save",
    "predict": "unlabeled.core.downstream.predict",
    "pretrain": "unlabeled.core.report",
    "read_recipe": "unlabeled.core.contracts.recipe",
    "study": "unlabeled.core.report",
}

__all__ = [
    "embed",
    "evaluate",
    "export",
    "finetune",
    "load_bundle",
    "load_model",
    "predict",
    "pretrain",
    "read_recipe",
    "study",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'unlabeled.core' has no attribute {name!r}")
