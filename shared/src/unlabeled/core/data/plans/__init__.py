"""Plans of the core: which items form which batch."""

from unlabeled.core.data.plans.plain import InOrder, Uniform

__all__ = ["InOrder", "Uniform"]
