"""The evaluation as a page: what was compared, how it was measured, tables, plots, pictures."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from nnunet_ext.evaluation import metrics, statistics
from nnunet_ext.evaluation.masks import image_file, mask_files
from nnunet_ext.evaluation.metrics import BEST, HIGHER_IS_BETTER, METRICS, TITLES, ClassMetrics
from nnunet_ext.evaluation.montage import montage
from nnunet_ext.evaluation.plots import box_plots
from nnunet_ext.evaluation.report import Block, Cell, Definitions, Figure, Page, Row, Section, Table, Text, Tile, Tone
from nnunet_ext.evaluation.result import MEAN, Evaluation
from nnunet_ext.evaluation.statistics import Summary

log = logging.getLogger(__name__)

DECIMALS = {"dice": 3, "hd95": 1, "assd": 2}
WIDE = 14  # boxes in one plot from which on a plot gets a line of its own
SIGNIFICANT = 0.05


def evaluation_page(evaluation: Evaluation, images: Path | None = None, title: str = "Segmentation report") -> Page:
    """The page of an evaluation, for `report.write_report`.

    Args:
        evaluation: what was measured.
        images: folder of the scans for the pictures; contours are drawn on black where a case has none.
        title: of the page.
    """
    subjects = len(set(evaluation.subjects.values()))
    cases = f"{len(evaluation.cases)}" + (f", of {subjects} subjects" if subjects < len(evaluation.cases) else "")
    return Page(
        title=title,
        subtitle=" · ".join(evaluation.methods),
        facts={"Cases": cases, "Structures": ", ".join(evaluation.structures), "Ground truth": str(evaluation.truth)}
        | {f"Masks of {method}": str(folder) for method, folder in evaluation.folders.items()},
        tiles=_tiles(evaluation),
        sections=evaluation_sections(evaluation, images),
    )


def evaluation_sections(evaluation: Evaluation, images: Path | None = None) -> list[Section]:
    """The sections alone, for a page that tells more than an evaluation."""
    sections = [_summary(evaluation), _plots(evaluation)]
    if len(evaluation.methods) > 1:
        sections.append(_paired(evaluation))
    return [*sections, _pictures(evaluation, images), _per_case(evaluation), _definitions()]


def _tiles(evaluation: Evaluation) -> list[Tile]:
    if len(evaluation.methods) == 1:
        method = evaluation.methods[0]
        each = [(TITLES[m], evaluation.summary(method, MEAN, m), m) for m in METRICS]
        tiles = [Tile(f"{name}, {MEAN}", _number(s.mean, m), _tile_interval(s, m)) for name, s, m in each]
    else:
        each = [(f"Dice of {m}", evaluation.summary(m, MEAN, "dice"), "dice") for m in evaluation.methods]
        tiles = [Tile(name, _number(s.mean, m), _tile_interval(s, m)) for name, s, m in each]
    outcomes = [evaluation.outcomes(m, MEAN) for m in evaluation.methods]
    missed, invented = sum(o["missed"] for o in outcomes), sum(o["invented"] for o in outcomes)
    total = sum(o["found"] for o in outcomes) + missed
    return [*tiles, Tile("Structures missed", str(missed), f"of {total} to find; {invented} invented")]


def _summary(evaluation: Evaluation) -> Section:
    columns = ["Structure", "Method"]
    for metric in METRICS:
        columns += [f"#{TITLES[metric]}", "#median"]
    columns += ["#missed", "#invented", "#absent"]
    rows: list[list[str | Cell]] = []
    for structure in evaluation.rows:
        summaries = {m: {k: evaluation.summary(m, structure, k) for k in METRICS} for m in evaluation.methods}
        best = {k: _best([s[k].mean for s in summaries.values()], k) for k in METRICS}
        for i, method in enumerate(evaluation.methods):
            row: list[str | Cell] = [Cell(structure, rows=len(evaluation.methods))] if i == 0 else []
            row.append(method)
            outcomes = evaluation.outcomes(method, structure)
            for k, s in summaries[method].items():
                top = len(evaluation.methods) > 1 and round(s.mean, DECIMALS[k]) == best[k]
                notes = [_interval(s, k)]
                if k != "dice" and structure != MEAN and outcomes["missed"] + outcomes["invented"]:
                    notes.append(f"{_number(evaluation.summary_where_found(method, structure, k).mean, k)} where found")
                row.append(Cell(_mean_sd(s, k), "\n".join(filter(None, notes)), tone="best" if top else ""))
                row.append(Cell(_number(s.median, k), tone="muted"))
            row += [Cell(str(outcomes[o]), tone="bad" if outcomes[o] else "muted") for o in ("missed", "invented")]
            rows.append([*row, Cell(str(outcomes["absent"]), tone="muted")])
    blocks: list[Block] = [Text(note, tone="warning") for note in evaluation.notes]
    caption = (
        "Mean ± standard deviation over cases, under it the 95 % interval of the mean. Missed and invented structures "
        "are in the means with Dice 0 and the image diagonal as distance; absent ones are not."
    )
    if len(evaluation.methods) > 1:
        caption += " Green: best mean."
    return Section("Summary", [*blocks, Table(columns, rows, caption)])


def _plots(evaluation: Evaluation) -> Section:
    figures = box_plots(evaluation)
    wide = len(evaluation.structures) * len(evaluation.methods) > WIDE
    lead = (
        "Box: quartiles; whiskers: within 1.5 box heights; a point per case; red cross: missed or invented, with their "
        "number."
    )
    return Section("Distribution over cases", figures if wide else [Row(figures)], lead)


def _paired(evaluation: Evaluation) -> Section:
    first = evaluation.methods[0]
    columns = ["Structure", "Method", "#n"]
    for metric in METRICS:
        columns += [f"#Δ {TITLES[metric]}", "#p"]
    found = {(c.structure, c.second, c.metric): c for c in evaluation.comparisons()}
    others = evaluation.methods[1:]
    rows: list[list[str | Cell]] = []
    for structure in evaluation.rows:
        for i, other in enumerate(others):
            row: list[str | Cell] = [Cell(structure, rows=len(others))] if i == 0 else []
            row += [other, str(found[structure, other, "dice"].test.n)]
            for metric in METRICS:
                c = found[structure, other, metric]
                better = c.test.difference > 0 if HIGHER_IS_BETTER[metric] else c.test.difference < 0
                tone: Tone = ("best" if better else "bad") if c.wilcoxon_p_holm < SIGNIFICANT else ""
                row += [
                    Cell(_signed(c.test.difference, metric), _range(c.test.low, c.test.high, metric), tone=tone),
                    Cell(_p(c.test.wilcoxon_p), f"Holm {_p(c.wilcoxon_p_holm)}\nt-test {_p(c.test.t_p)}"),
                ]
            rows.append(row)
    caption = (
        f"Δ: mean of the method minus {first}, under it its 95 % interval. p: Wilcoxon, under it the same adjusted by "
        f"Holm's method and the paired t-test. Where Holm's p is below {SIGNIFICANT}, green: better than {first}, "
        "red: worse."
    )
    return Section(f"Paired tests against {first}", [Table(columns, rows, caption)])


def _pictures(evaluation: Evaluation, images: Path | None) -> Section:
    first = evaluation.methods[0]
    files = {method: mask_files(folder) for method, folder in evaluation.folders.items()}
    truth = mask_files(evaluation.truth)
    ranked = sorted(
        (value, case)
        for case, value in zip(evaluation.cases, evaluation.values(first, MEAN, "dice"), strict=True)
        if not math.isnan(value)
    )
    chosen = {}
    if ranked:
        chosen = {"Best": ranked[-1][1], "Median": ranked[(len(ranked) - 1) // 2][1], "Worst": ranked[0][1]}
    figures: list[Block] = []
    scans = {case: image_file(images, case) if images else None for case in chosen.values()}
    if images and (black := sorted(case for case, scan in scans.items() if scan is None)):
        figures.append(Text(f"{images}: no scan of {', '.join(black)}, drawn on black.", tone="warning"))
    for what, case in chosen.items():
        if case in [c for w, c in chosen.items() if list(chosen).index(w) < list(chosen).index(what)]:
            continue  # fewer than three cases
        picture = montage(
            truth[case],
            {method: each[case] for method, each in files.items()},
            scans[case],
            evaluation.labels,
        )
        told = " · ".join(f"{method} {_case_dice(evaluation, method, case)}" for method in evaluation.methods)
        alt = f"Slices of case {case} with the contours of prediction and ground truth. {told}"
        figures.append(Figure(picture, alt, f"Dice: {told}", f"{what}: {case}"))
    lead = (
        f"Best, median and worst case by the mean Dice of {first}. Line: prediction; filled and dashed: ground truth. "
        "Slices of the scan's own grid in true proportions, numbered from feet to head, front to back or right to left."
    )
    return Section("Cases to look at", figures or [Text("No case has a score.")], lead)


def _per_case(evaluation: Evaluation) -> Section:
    grouped = any(case != subject for case, subject in evaluation.subjects.items())
    columns = ["Case", *(["Subject"] if grouped else []), "Method", "#Mean Dice"]
    columns += [f"#{structure} {TITLES[metric]}" for structure in evaluation.structures for metric in METRICS]
    rows: list[list[str | Cell]] = []
    means = {m: evaluation.values(m, MEAN, "dice") for m in evaluation.methods}
    for i, case in enumerate(evaluation.cases):
        for method in evaluation.methods:
            scores = evaluation.scores[method][case]
            row: list[str | Cell] = [case, *([evaluation.subjects[case]] if grouped else []), method]
            row.append(_score_cell(means[method][i], "dice"))
            row += [_outcome_cell(scores[s], metric) for s in evaluation.structures for metric in METRICS]
            rows.append(row)
    lead = "Click a heading to sort."
    return Section("Every case", [Table(columns, rows, sortable=True)], lead, folded=len(rows) > 40)


def _definitions() -> Section:
    return Section("How it was measured", [Definitions(metrics.DEFINITIONS | statistics.DEFINITIONS)])


def _outcome_cell(score: ClassMetrics, metric: str) -> Cell:
    value = getattr(score, metric)
    if score.outcome == "found":
        return _score_cell(value, metric)
    if score.outcome == "absent":
        return Cell("–", tone="muted", title="in neither mask")
    return Cell(score.outcome, value=value, tone="bad", title=f"counted as {_number(value, metric)}")


def _score_cell(value: float, metric: str) -> Cell:
    return Cell("–", tone="muted") if math.isnan(value) else Cell(_number(value, metric), value=value)


def _case_dice(evaluation: Evaluation, method: str, case: str) -> str:
    scores = evaluation.scores[method][case]
    parts = [
        f"{name} {_number(s.dice, 'dice') if s.outcome == 'found' else s.outcome}"
        for name, s in scores.items()
        if s.outcome != "absent"
    ]
    mean = evaluation.values(method, MEAN, "dice")[evaluation.cases.index(case)]
    return f"{_number(mean, 'dice')} ({', '.join(parts)})"


def _best(values: list[float], metric: str) -> float:
    known = [round(v, DECIMALS[metric]) for v in values if not math.isnan(v)]
    return (max if HIGHER_IS_BETTER[metric] else min)(known, default=BEST[metric])


def _number(value: float, metric: str) -> str:
    return "–" if math.isnan(value) else f"{value:.{DECIMALS[metric]}f}"


def _signed(value: float, metric: str) -> str:
    return "–" if math.isnan(value) else f"{value:+.{DECIMALS[metric]}f}".replace("-", "−")


def _range(low: float, high: float, metric: str) -> str:
    return "" if math.isnan(low) else f"{_signed(low, metric)} to {_signed(high, metric)}"


def _mean_sd(s: Summary, metric: str) -> str:
    return _number(s.mean, metric) + ("" if math.isnan(s.std) else f" ± {_number(s.std, metric)}")


def _interval(s: Summary, metric: str) -> str:
    return "" if math.isnan(s.low) else f"{_number(s.low, metric)} to {_number(s.high, metric)}"


def _tile_interval(s: Summary, metric: str) -> str:
    return f"95 % CI {_interval(s, metric)}" if not math.isnan(s.low) else f"{s.n} case{'s' * (s.n != 1)}"


def _p(p: float) -> str:
    return "–" if math.isnan(p) else ("<0.001" if p < 0.001 else f"{p:.3f}")
