import pytest

from unlabeled.core.evaluation.evaluate import show


def test_a_row_of_the_table_fits_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    score = {"score": 0.9, "low": 0.8, "high": 0.95}
    gain = {"ours_minus": 0.1, "ours_minus_low": -0.05, "ours_minus_high": 0.2}
    scores = {"ours, linear probe": score, "random weights, linear probe": score | gain}
    show(
        {
            "metric": "macro-F1 over records",
            "scores": scores,
            "records": 4,
            "test_groups": ["a"],
            "rank": 3.0,
            "random_rank": 2.5,
            "uniformity": {"ours": -1.25, "random weights": None},
            "by": {},
            "width": 8,
            "fed": {"pretraining_cells": (64, 64), "cells": (32, 32), "normaliser": {"x": "standard"}},
            "seen_in_pretraining": [],
        }
    )
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "ours, linear probe 0.900 [0.800, 0.950]" in lines
    assert "pretraining: 64 x 64 cells; here: 32 x 32 cells; normalised: x by standard" in lines
    assert "uniformity (less is more even): ours -1.25; rank of random weights 2.5" in lines
    assert "random weights, linear probe 0.900 [0.800, 0.950] +0.100 [-0.050, +0.200]" in lines
