"""An evaluation as CSV and as JSON."""

from __future__ import annotations

import csv
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from nnunet_ext.evaluation import metrics, statistics
from nnunet_ext.evaluation.metrics import METRICS, ClassMetrics
from nnunet_ext.evaluation.result import Evaluation
from nnunet_ext.files import atomic_path, write_json


def write_csv(evaluation: Evaluation, target: Path) -> None:
    """One row per method, case and structure, written atomically. A score that is not defined is an empty field."""
    columns = ["method", "case", "subject", "structure", *(f.name for f in fields(ClassMetrics))]
    with atomic_path(target) as path, path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for method, cases in evaluation.scores.items():
            for case, structures in cases.items():
                for structure, score in structures.items():
                    row = [method, case, evaluation.subjects[case], structure, *asdict(score).values()]
                    writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in row])


def write_summary(evaluation: Evaluation, target: Path) -> None:
    """The whole evaluation as JSON, written atomically. A figure that is not defined is null."""
    write_json(target, as_json(evaluation))


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Definitions, summaries, paired tests and per-case scores as plain types, NaN as None."""
    return _plain(
        {
            "definitions": metrics.DEFINITIONS | statistics.DEFINITIONS,
            "truth": str(evaluation.truth),
            "labels": {name: list(values) for name, values in evaluation.labels.classes.items()},
            "notes": evaluation.notes,
            "subjects": evaluation.subjects,
            "methods": {
                method: {
                    "folder": str(folder),
                    "summary": {
                        structure: {metric: asdict(evaluation.summary(method, structure, metric)) for metric in METRICS}
                        | {"outcomes": evaluation.outcomes(method, structure)}
                        for structure in evaluation.rows
                    },
                    "cases": {
                        case: {structure: asdict(score) for structure, score in structures.items()}
                        for case, structures in evaluation.scores[method].items()
                    },
                }
                for method, folder in evaluation.folders.items()
            },
            "comparisons": [asdict(comparison) for comparison in evaluation.comparisons()],
        }
    )


def _plain(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_plain(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content
