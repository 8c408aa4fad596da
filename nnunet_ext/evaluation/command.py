"""What `nnunet_ext evaluate` does: score, write what was asked for, print the summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_ext.errors import InputError
from nnunet_ext.evaluation.evaluate import evaluate
from nnunet_ext.evaluation.export import write_csv, write_summary
from nnunet_ext.evaluation.metrics import METRICS, TITLES
from nnunet_ext.evaluation.result import Evaluation
from nnunet_ext.evaluation.statistics import Summary


def run(
    predictions: Sequence[Path],
    truth: Path,
    *,
    images: Path | None = None,
    csv: Path | None = None,
    json: Path | None = None,
    report: Path | None = None,
    **options: Any,
) -> None:
    """Evaluate and write; `options` are those of `evaluate.evaluate`.

    Raises:
        InputError: as `evaluate.evaluate`, or `images` is not a folder.
    """
    if images is not None and not images.is_dir():
        raise InputError(f"{images}: no such folder, a folder of scans is needed for --images")
    evaluation = evaluate(predictions, truth, **options)
    if csv is not None:
        write_csv(evaluation, csv)
    if json is not None:
        write_summary(evaluation, json)
    print(table(evaluation))
    if report is not None:
        from nnunet_ext.evaluation.page import evaluation_page
        from nnunet_ext.evaluation.report import write_report

        write_report(evaluation_page(evaluation, images or _images_beside(truth)), report)
        print(f"report: {report.resolve()}")


def table(evaluation: Evaluation) -> str:
    """The summary as text: mean and standard deviation, and how often a structure was missed or invented."""
    head = ["", "", *(TITLES[m] for m in METRICS), "missed", "invented", "absent"]
    lines = [head]
    for structure in evaluation.rows:
        for method in evaluation.methods:
            summaries = [evaluation.summary(method, structure, m) for m in METRICS]
            counts = evaluation.outcomes(method, structure)
            cells = [_mean_and_deviation(s) for s in summaries]
            lines.append([structure, method, *cells, *(str(counts[o]) for o in ("missed", "invented", "absent"))])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def _mean_and_deviation(summary: Summary) -> str:
    """As far as they are defined: a mean needs one case, a standard deviation two."""
    if math.isnan(summary.mean):
        return "–"
    return f"{summary.mean:.3f}" + ("" if math.isnan(summary.std) else f" ± {summary.std:.3f}")


def _images_beside(truth: Path) -> Path | None:
    """nnU-Net keeps the scans of `labelsTr` in `imagesTr`."""
    beside = truth.resolve().parent / truth.resolve().name.replace("labels", "images")
    return beside if beside.is_dir() and beside != truth.resolve() else None
