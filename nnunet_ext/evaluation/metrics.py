"""Dice, HD95 and ASSD of one case, and what they mean where a mask is empty."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from monai.metrics.utils import get_mask_edges, get_surface_distance
from numpy.typing import NDArray

Outcome = Literal["found", "missed", "invented", "absent"]
Mask: TypeAlias = NDArray[Any]

METRICS = ("dice", "hd95", "assd")
TITLES = {"dice": "Dice", "hd95": "HD95 [mm]", "assd": "ASSD [mm]"}
HIGHER_IS_BETTER = {"dice": True, "hd95": False, "assd": False}
BEST = {"dice": 1.0, "hd95": 0.0, "assd": 0.0}

DEFINITIONS: dict[str, str] = {
    "Dice": "2|P∩T| / (|P| + |T|) over the voxels of the prediction P and the ground truth T of one structure. "
    "1 is perfect.",
    "Surface": "The voxels of a mask that touch its outside through a face; what lies beyond the image is outside. "
    "An axis with a single voxel has no faces, so a one-slice volume is measured as a 2D image.",
    "Distance": "Euclidean, between voxel centres, in mm by the spacing of the ground truth; for each surface voxel of "
    "one mask to the nearest surface voxel of the other.",
    "HD95": "The 95th percentile (linear interpolation) of the distances from P to T, and of those from T to P; the "
    "larger of the two.",
    "ASSD": "The mean of all distances, those from P to T and those from T to P pooled.",
    "Missed or invented": "A structure that is in the ground truth but not in the prediction is missed, the other way "
    "round it is invented. Both score Dice 0, and the diagonal of the whole image in mm as HD95 and ASSD: no larger "
    "distance can occur in that image. They count in every mean and test.",
    "Absent": "A structure that is in neither mask has no score. It is left out of the means and counted.",
    "Ignore label": "Voxels whose ground truth is the ignore label are cut out of both masks first.",
}


@dataclass(frozen=True)
class ClassMetrics:
    """What one structure scored in one case.

    `outcome` is "found" (both masks have it), "missed" (prediction empty), "invented" (ground truth empty) or
    "absent" (both empty; the three metrics are NaN). Distances are in the unit of the spacing, mm.
    """

    dice: float
    hd95: float
    assd: float
    outcome: Outcome
    predicted_voxels: int
    true_voxels: int


def case_metrics(
    prediction: Mask,
    truth: Mask,
    labels: Mapping[str, int | Sequence[int]],
    spacing: Sequence[float],
    ignore: int | None = None,
) -> dict[str, ClassMetrics]:
    """Score every structure of one case; `DEFINITIONS` has the definitions in words.

    Args:
        prediction: label map, 2D or 3D, any integer type.
        truth: label map of the same shape.
        labels: name -> label value, or the values that make up a region (nnU-Net's region-based labels).
        spacing: mm between voxel centres, one number per array axis, in the order of the array's axes.
        ignore: label value in `truth` whose voxels are left out of every score.

    Raises:
        ValueError: shapes or the number of spacings do not fit.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction has shape {prediction.shape}, it must be that of the truth, {truth.shape}")
    if len(spacing) != truth.ndim:
        raise ValueError(f"{len(spacing)} spacings for an array of {truth.ndim} axes, one per axis is needed")
    diagonal = math.hypot(*(size * step for size, step in zip(truth.shape, spacing, strict=True)))
    valid = None if ignore is None else truth != ignore
    scores = {}
    for name, values in labels.items():
        wanted = [values] if isinstance(values, int | np.integer) else list(values)
        in_prediction, in_truth = np.isin(prediction, wanted), np.isin(truth, wanted)
        if valid is not None:
            in_prediction &= valid
            in_truth &= valid
        scores[name] = _class_metrics(in_prediction, in_truth, spacing, diagonal)
    return scores


def surface_distances(
    prediction: Mask, truth: Mask, spacing: Sequence[float]
) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Distances from each surface voxel of one mask to the other's surface: prediction to truth, truth to prediction.

    Args:
        prediction: boolean mask with at least one voxel.
        truth: boolean mask of the same shape with at least one voxel.
        spacing: mm per array axis.
    """
    box = _bounding_box(prediction | truth)
    kept = tuple(axis for axis, size in enumerate(truth.shape) if size > 1)
    lone = tuple(axis for axis, size in enumerate(truth.shape) if size == 1)
    if not kept:  # an image of one voxel
        return np.zeros(1), np.zeros(1)
    inside = np.squeeze(prediction[box], axis=lone), np.squeeze(truth[box], axis=lone)
    # The crop is exact without a margin: erosion takes what lies beyond the array as outside.
    edges = get_mask_edges(*inside, crop=False)
    steps = [spacing[axis] for axis in kept]
    return (
        np.asarray(get_surface_distance(edges[0], edges[1], spacing=steps)),
        np.asarray(get_surface_distance(edges[1], edges[0], spacing=steps)),
    )


def _class_metrics(prediction: Mask, truth: Mask, spacing: Sequence[float], diagonal: float) -> ClassMetrics:
    predicted, true = int(prediction.sum()), int(truth.sum())
    if not predicted and not true:
        return ClassMetrics(math.nan, math.nan, math.nan, "absent", 0, 0)
    if not predicted or not true:
        return ClassMetrics(0.0, diagonal, diagonal, "missed" if true else "invented", predicted, true)
    dice = 2 * int((prediction & truth).sum()) / (predicted + true)
    forth, back = surface_distances(prediction, truth, spacing)
    hd95 = max(np.percentile(forth, 95), np.percentile(back, 95))
    assd = np.concatenate([forth, back]).mean(dtype=np.float64)
    return ClassMetrics(dice, float(hd95), float(assd), "found", predicted, true)


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    box = []
    for axis in range(mask.ndim):
        hit = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box.append(slice(int(hit[0]), int(hit[-1]) + 1))
    return tuple(box)
