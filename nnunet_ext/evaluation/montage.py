"""Slices of one case with the contours of the ground truth and of each prediction."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import SimpleITK as sitk
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Plot
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from nnunet_ext.data import images
from nnunet_ext.evaluation.masks import Labels, read_mask
from nnunet_ext.evaluation.report import png

log = logging.getLogger(__name__)

STRUCTURE_COLOURS = ("#4cc9f0", "#ffd166", "#ff5c7a", "#80ed99", "#c77dff", "#ff9f1c", "#e0fbfc", "#f28482")
SLICES = 5
MARGIN = 0.25  # of the structures' extent, shown around them
_DARK: dict[Any, Any] = {
    "figure.facecolor": "#000000",
    "axes.facecolor": "#000000",
    "text.color": "#e6ebf2",
    "font.size": 9.5,
}


@dataclass(frozen=True)
class _View:
    """Arrays (slice, row, column) with the mm per row and column."""

    image: NDArray[Any] | None
    truth: NDArray[Any]
    predictions: dict[str, NDArray[Any]]
    step: tuple[float, float]


def montage(truth: Path, predictions: Mapping[str, Path], image: Path | None, labels: Labels) -> bytes:
    """A PNG: a row per prediction, columns of slices through the structures.

    The slices are those of the scan's own grid, turned to the nearest patient axes (patient right on the left, as
    radiologists read) and cut across the axis of largest spacing, so nothing is interpolated and an oblique or
    anisotropic scan is shown in its true proportions.

    Args:
        truth: ground truth mask.
        predictions: method -> its mask, on the same grid.
        image: the scan, or None for contours alone.
        labels: the structures to draw.
    """
    view = _load(truth, predictions, image)
    masks = {name: np.isin(view.truth, values) for name, values in labels.classes.items()}
    drawn = {
        method: {name: np.isin(array, values) for name, values in labels.classes.items()}
        for method, array in view.predictions.items()
    }
    occupied = np.any([*masks.values(), *(m for each in drawn.values() for m in each.values())], axis=0)
    if not occupied.any():
        occupied = np.ones_like(occupied)
    where = np.flatnonzero(occupied.any(axis=(1, 2)))
    slices = np.unique(np.linspace(where[0], where[-1], SLICES).round().astype(int))
    window = _window(occupied.any(axis=0), view.step)
    colours = {name: STRUCTURE_COLOURS[i % len(STRUCTURE_COLOURS)] for i, name in enumerate(masks)}
    tight = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    with matplotlib.rc_context(_DARK):
        plot = Plot(figsize=(2.3 * max(len(slices), 3), 2.35 * len(drawn) + 0.35), layout=tight)
        panels = plot.subplots(len(drawn), len(slices), squeeze=False)
        for row, (method, structures) in zip(panels, drawn.items(), strict=True):
            for axes, index in zip(row, slices, strict=True):
                _panel(axes, view, masks, structures, int(index), window, colours)
                _write(axes, 0.03, f"{index + 1}/{len(occupied)}", va="bottom", fontsize=7.5)
            _write(row[0], 0.97, method, va="top", fontsize=9, weight="bold")
        _legend(plot, colours)
        return png(plot, dpi=110)


def _load(truth: Path, predictions: Mapping[str, Path], image: Path | None) -> _View:
    reference = read_mask(truth)
    scan = images.read(image, first_component=True) if image else None
    if image and scan:
        images.require_same_grid(reference, scan, truth, image)
    oriented = _oriented(reference)
    axis = _slicing_axis(oriented)

    def array(source: sitk.Image) -> NDArray[Any]:
        data = sitk.GetArrayFromImage(_oriented(source))
        if data.ndim == 2:
            return data[None]
        data = np.moveaxis(data, axis, 0)
        return data if axis == 0 else data[:, ::-1]  # coronal and sagittal slices: head up

    spacing = oriented.GetSpacing()[::-1]
    step = [s for i, s in enumerate(spacing) if len(spacing) == 2 or i != axis]
    return _View(
        image=array(scan) if scan else None,
        truth=array(reference),
        predictions={method: array(read_mask(path)) for method, path in predictions.items()},
        step=(step[0], step[1]),
    )


def _oriented(image: sitk.Image) -> sitk.Image:
    return sitk.DICOMOrient(image, "LPS") if image.GetDimension() == 3 else image


def _slicing_axis(image: sitk.Image) -> int:
    """The array axis to cut across: that of a single slice or of clearly thicker slices, else the axial one."""
    size, spacing = image.GetSize()[::-1], image.GetSpacing()[::-1]
    if 1 in size:
        return size.index(1)
    return int(np.argmax(spacing)) if max(spacing) > 1.2 * min(spacing) else 0


def _window(occupied: NDArray[np.bool_], step: tuple[float, float]) -> tuple[float, float, float, float]:
    """Square around the structures in mm: left, right, bottom, top (rows run downwards)."""
    rows, columns = np.nonzero(occupied)
    centre = [(v.min() + v.max() + 1) / 2 * s for v, s in zip((rows, columns), step, strict=True)]
    extent = max((v.max() + 1 - v.min()) * s for v, s in zip((rows, columns), step, strict=True))
    half = extent * (0.5 + MARGIN)
    return centre[1] - half, centre[1] + half, centre[0] + half, centre[0] - half


def _panel(
    axes: Axes,
    view: _View,
    truth: Mapping[str, NDArray[np.bool_]],
    prediction: Mapping[str, NDArray[np.bool_]],
    index: int,
    window: tuple[float, float, float, float],
    colours: Mapping[str, str],
) -> None:
    rows, columns = view.truth.shape[1:]
    height, width = rows * view.step[0], columns * view.step[1]
    if view.image is not None:
        inside = _cut(view.image[index], view.step, window)
        low, high = np.percentile(inside, (0.5, 99.5))
        axes.imshow(view.image[index], cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=(0, width, height, 0))
    x, y = (np.arange(columns) + 0.5) * view.step[1], (np.arange(rows) + 0.5) * view.step[0]
    for name, colour in colours.items():
        if (there := truth[name][index]).any():
            axes.contourf(x, y, there, levels=[0.5, 1.5], colors=[colour], alpha=0.22)
            axes.contour(x, y, there, levels=[0.5], colors=[colour], linewidths=0.9, linestyles="dashed", alpha=0.9)
        if (there := prediction[name][index]).any():
            axes.contour(x, y, there, levels=[0.5], colors=[colour], linewidths=1.6)
    axes.set(xlim=window[:2], ylim=window[2:], aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _write(axes: Axes, height: float, text: str, **style: Any) -> None:
    """Text at the left edge, outlined so that it reads on bright tissue too."""
    outline = [withStroke(linewidth=2, foreground="#000000b0")]
    axes.text(0.03, height, text, transform=axes.transAxes, path_effects=outline, **style)


def _cut(plane: NDArray[Any], step: tuple[float, float], window: tuple[float, float, float, float]) -> NDArray[Any]:
    left, right, bottom, top = window
    rows = slice(max(0, int(top / step[0])), max(1, int(bottom / step[0])))
    columns = slice(max(0, int(left / step[1])), max(1, int(right / step[1])))
    return plane[rows, columns]


def _legend(plot: Plot, colours: Mapping[str, str]) -> None:
    handles: list[Any] = [Patch(facecolor=colour, label=name) for name, colour in colours.items()]
    handles.append(Line2D([], [], color="#e6ebf2", linewidth=1.6, label="prediction"))
    filled: dict[str, Any] = {"facecolor": "#e6ebf247", "edgecolor": "#e6ebf2", "linestyle": "--", "linewidth": 0.9}
    handles.append(Patch(label="ground truth", **filled))
    plot.legend(
        handles=handles,
        loc="outside lower left",
        ncols=min(8, len(handles)),
        frameon=False,
        fontsize=8.5,
        handlelength=1.3,
    )
