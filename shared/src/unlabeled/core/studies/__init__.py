"""Study: was pretraining worth it? Ours beside random weights and the field's simple baselines, and the verdict."""

from unlabeled.core.studies.run import study
from unlabeled.core.studies.side_by_side import compare
from unlabeled.core.studies.table import render, table, text

__all__ = ["compare", "render", "study", "table", "text"]
