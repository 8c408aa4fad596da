"""Box plots of an evaluation, one figure per metric."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Plot

from nnunet_ext.evaluation.metrics import METRICS, TITLES
from nnunet_ext.evaluation.report import Figure, themed
from nnunet_ext.evaluation.result import Evaluation

METHOD_COLOURS = ("#2f80c9", "#e5853d", "#2fa37c", "#b763ad", "#c9a227", "#7d8794", "#d1495b", "#5b6ee1")


def box_plots(evaluation: Evaluation) -> list[Figure]:
    """One figure per metric: a box per structure and method, a point per case, a cross per missed or invented one."""
    return [_box_plot(evaluation, metric) for metric in METRICS]


def _box_plot(evaluation: Evaluation, metric: str) -> Figure:
    methods, structures = evaluation.methods, evaluation.structures
    found = [[_values(evaluation, m, s, metric, found=True) for s in structures] for m in methods]
    lost = [[_values(evaluation, m, s, metric, found=False) for s in structures] for m in methods]

    def draw() -> Plot:
        plot = Plot(figsize=(max(4.1, 0.9 + 0.3 * len(structures) * (len(methods) + 0.6)), 3.2), layout="constrained")
        axes = plot.add_subplot()
        # Misses would stretch a distance axis to the image's diagonal, so they are marked on its upper edge instead.
        top = 1.0 if metric == "dice" else 1.08 * max((max(v) for row in found for v in row if v), default=1.0)
        top = top or 1.0
        for i, method in enumerate(methods):
            colour = METHOD_COLOURS[i % len(METHOD_COLOURS)]
            width = 0.8 / len(methods)
            centres = np.arange(len(structures)) - 0.4 + width * (i + 0.5)
            shown = [(c, v) for c, v in zip(centres, found[i], strict=True) if v]
            if shown:
                axes.boxplot(
                    [v for _, v in shown],
                    positions=[c for c, _ in shown],
                    widths=min(width * 0.72, 0.36),
                    manage_ticks=False,
                    showfliers=False,
                    patch_artist=True,
                    boxprops={"facecolor": colour + "40", "edgecolor": colour},
                    medianprops={"color": colour, "linewidth": 2},
                    whiskerprops={"color": colour},
                    capprops={"color": colour},
                )
            axes.plot([], [], "s", color=colour, markersize=7, label=method)
            for centre, values, gone in zip(centres, found[i], lost[i], strict=True):
                # A fixed pattern instead of random jitter: the same page from the same data.
                spread = min(width * 0.22, 0.1) * np.sin(2.4 * np.arange(len(values)))
                axes.plot(centre + spread, values, "o", color=colour, markersize=3, alpha=0.75, markeredgewidth=0)
                if gone:
                    level = 0.0 if metric == "dice" else top
                    axes.plot([centre], [level], "x", color="#d92d20", markersize=7, markeredgewidth=2, clip_on=False)
                    place: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
                    axes.annotate(f"{len(gone)}", (centre, level), color="#d92d20", fontsize=8, **place)
        axes.set_xticks(range(len(structures)), structures)
        if sum(map(len, structures)) > 40:
            axes.tick_params("x", rotation=30)
        axes.tick_params("x", length=0)
        axes.set_ylim(0 if metric != "dice" else _floor(found, lost), top * (1.01 if metric == "dice" else 1.0))
        axes.set_ylabel(TITLES[metric])
        axes.grid(axis="y")
        if len(methods) > 1:
            plot.legend(loc="outside upper left", ncols=min(4, len(methods)), frameon=False, handletextpad=0.3)
        return plot

    told = "; ".join(
        f"{m}, {s}: median {np.median(found[i][j]):.3g} over {len(found[i][j])} cases"
        for i, m in enumerate(methods)
        for j, s in enumerate(structures)
        if found[i][j]
    )
    return themed(draw, alt=f"Box plot of {TITLES[metric]}. {told}", title=TITLES[metric])


def _values(evaluation: Evaluation, method: str, structure: str, metric: str, found: bool) -> list[float]:
    scores = [case[structure] for case in evaluation.scores[method].values()]
    return [
        getattr(s, metric) for s in scores if (s.outcome == "found") == found and not math.isnan(getattr(s, metric))
    ]


def _floor(found: list[list[list[float]]], lost: list[list[list[float]]]) -> float:
    """Where the Dice axis starts: below 0 where something was missed, else at the tenth below the lowest value."""
    if any(v for row in lost for v in row):
        return -0.04  # room for the crosses at 0
    lowest = min((min(v) for row in found for v in row if v), default=0.0)
    return max(0.0, math.floor(lowest * 10 - 0.5) / 10)
