"""Grading as sections of a report, and the files of a scoring."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure as Plot

from nnunet_ext.evaluation.report import Block, Cell, Definitions, Figure, Page, Section, Table, Text, Tile, themed
from nnunet_ext.evaluation.report import write_report as write_page
from nnunet_ext.files import write_json
from nnunet_ext.koos.grades import Grade
from nnunet_ext.koos.scores import DEFINITIONS, Scores


def koos_sections(scores: Scores, predictions: Mapping[str, Grade] | None = None) -> list[Section]:
    """Sections for any page: the scores by class, the confusion matrix, every probability, the definitions.

    Args:
        scores: what was measured.
        predictions: case -> prediction, for the table of cases; left out without it.
    """
    rows = [
        [str(c), str(n), _number(mae), _number(mse), _number(scores.confusion[i, i] / n if n else math.nan)]
        for i, (c, (n, mae, mse)) in enumerate(scores.per_class().items())
    ]
    best, constant = scores.constant()
    low, high = scores.interval()
    lead = (
        f"MA-MAE {scores.ma_mae:.3f}{_interval(low, high)}, MA-MSE {scores.ma_mse:.3f}, "
        f"accuracy {scores.accuracy:.3f}, {len(scores.truth)} cases. Always saying {best} would score {constant:.3f}."
    )
    blocks: list[Block] = [
        Table(["True class", "#Cases", "#MAE", "#MSE", "#Found"], rows, "Found: part of the class's cases graded so."),
        _confusion(scores),
    ]
    sections = [Section("Grades", blocks, lead)]
    if predictions:
        sections.append(Section("Every grade", [_cases(predictions, scores.classes)], folded=len(predictions) > 40))
    return [*sections, Section("How grades are scored", [Definitions(DEFINITIONS)])]


def koos_page(scores: Scores, predictions: Mapping[str, Grade] | None = None, title: str = "Koos grades") -> Page:
    """A page of its own, for `report.write_report`."""
    low, high = scores.interval()
    best, constant = scores.constant()
    tiles = [
        Tile("MA-MAE", f"{scores.ma_mae:.3f}", f"95 % CI{_interval(low, high)}" if not math.isnan(low) else ""),
        Tile("MA-MSE", f"{scores.ma_mse:.3f}"),
        Tile("Constant guess, MA-MAE", f"{constant:.3f}", f"always {best}"),
    ]
    facts = {"Cases": str(len(scores.truth)), "Classes": ", ".join(map(str, scores.classes))}
    return Page(title, koos_sections(scores, predictions), facts=facts, tiles=tiles)


def write_scores(
    scores: Scores, predictions: Mapping[str, Grade] | None, json: Path | None, report: Path | None
) -> None:
    """Write what was asked for: the report first, then the JSON."""
    if report is not None:
        write_page(koos_page(scores, predictions), report)
    if json is not None:
        write_json(json, scores.as_json())


def _confusion(scores: Scores) -> Figure:
    counts = scores.confusion

    def draw() -> Plot:
        side = 1.6 + 0.5 * len(scores.classes)
        plot = Plot(figsize=(side, side), layout="constrained")
        axes = plot.add_subplot()
        share = counts / counts.sum(1, keepdims=True).clip(1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), n in [((r, c), counts[r, c]) for r in range(len(counts)) for c in range(len(counts))]:
            axes.text(column, row, str(n), ha="center", va="center", color="white" if share[row, column] > 0.5 else "k")
        axes.set(xlabel="predicted", ylabel="true", xticks=range(len(counts)), yticks=range(len(counts)))
        axes.set_xticklabels([str(c) for c in scores.classes])
        axes.set_yticklabels([str(c) for c in scores.classes])
        return plot

    told = "; ".join(
        f"true {c}: " + ", ".join(f"{n} as {p}" for p, n in zip(scores.classes, row, strict=True))
        for c, row in zip(scores.classes, counts, strict=True)
    )
    return themed(draw, f"Confusion matrix. {told}.", "Cases by true and predicted class; colour: part of the row.")


def _cases(predictions: Mapping[str, Grade], classes: tuple[int, ...]) -> Table | Text:
    rows: list[list[str | Cell]] = []
    for case, p in predictions.items():
        row: list[str | Cell] = [case, Cell(str(p.grade), "" if p.probabilities else "no tumour found")]
        row += [_number(p.probabilities[c]) if p.probabilities else Cell("–", tone="muted") for c in classes]
        rows.append(row)
    return Table(["Case", "#Predicted", *(f"#p({c})" for c in classes)], rows, sortable=True)


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f" ({low:.3f} to {high:.3f})"
