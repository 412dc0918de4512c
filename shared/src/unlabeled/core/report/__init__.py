"""Report: one HTML page of a run or a study, whole in itself, and the runs that end with one."""

from unlabeled.core.report.write import pretrain, study, write

__all__ = ["pretrain", "study", "write"]
