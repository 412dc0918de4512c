"""Predictions as annotations: onset, duration, description, in seconds from the recording's start, as EDF+ has them."""

from __future__ import annotations

import csv
from pathlib import Path
from urllib.parse import quote

from unlabeled.core.downstream.model import Model
from unlabeled.core.downstream.write import Predictions, Record

Annotation = tuple[float, float, str]


def annotated(record: Record, unit: str) -> list[Annotation]:
    """One annotation for each segment; for a class or a value, one over the whole recording."""
    if record.prediction is None:
        return [(s.start, s.stop - s.start, s.label) for s in record.segments]
    said = record.prediction
    text = said if isinstance(said, str) else f"{said:.6g}{' ' + unit if unit else ''}"
    return [(0.0, record.extent[0], text)]


def table(model: Model, predictions: Predictions, out: Path) -> None:
    """`annotations.csv`: key, onset, duration, description."""
    with (out / "annotations.csv").open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(["key", "onset", "duration", "description"])
        for record in predictions.records:
            lines.writerows(
                [record.key, f"{onset:.6f}", f"{duration:.6f}", text]
                for onset, duration, text in annotated(record, predictions.unit)
            )


def mne(model: Model, predictions: Predictions, out: Path) -> None:
    """`annotations/KEY.txt`, one for each recording, as `mne.read_annotations` reads them.

    That format separates by commas and quotes nothing, so a comma in a description becomes a semicolon.
    """
    (out / "annotations").mkdir()
    for record in predictions.records:
        lines = ["# MNE-Annotations", "# onset, duration, description"]
        lines += [
            f"{onset:.6f},{duration:.6f},{text.replace(',', ';')}"
            for onset, duration, text in annotated(record, predictions.unit)
        ]
        (out / "annotations" / f"{quote(record.key, safe=' ()#')}.txt").write_text("\n".join(lines) + "\n")
