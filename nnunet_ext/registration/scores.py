"""How good is a registration, without labels: cycle consistency (thesis, section 6.3.3, eqs. 6.9 and 6.10)."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray


def root_mean_square_error(a: ArrayLike, b: ArrayLike) -> float:
    """RMSE of two arrays of one shape."""
    return float(np.sqrt(np.mean((np.asarray(a, np.float64) - np.asarray(b, np.float64)) ** 2)))


def mutual_information(a: ArrayLike, b: ArrayLike, bins: int = 32) -> float:
    """Mutual information in nats of two arrays of one shape, from a joint histogram over each one's range.

    It is 0 when either is constant, and at most ln(bins).
    """
    joint, _, _ = np.histogram2d(np.ravel(a), np.ravel(b), bins=bins)
    joint /= joint.sum()
    expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return max(0.0, float((joint[seen] * np.log(joint[seen] / expected[seen])).sum()))


def composite_score(rmse: float, mi: float, weight_rmse: float, weight_mi: float) -> float:
    """S of eq. 6.10, smaller is better.

    MI enters negatively: with the printed plus, minimising S would reward a poor MI.
    """
    return weight_rmse * rmse - weight_mi * mi


def cycle_scores(
    volume: sitk.Image, through: sitk.Image, out: sitk.Transform, back: sitk.Transform, inside: NDArray[np.bool_]
) -> tuple[float, float]:
    """RMSE and MI between `volume` and its round trip (eq. 6.9) over the grid of `volume`.

    Args:
        volume: v_j, intensities in [0, 1].
        through: v_q; only its grid is used.
        out: maps points of `through` to points of `volume` (it pulls v_j onto v_q's grid).
        back: maps points of `volume` to points of `through`.
        inside: voxels of `volume` that count, (z, y, x).
    """
    there = sitk.Resample(volume, through, out, sitk.sitkLinear)
    again = sitk.GetArrayFromImage(sitk.Resample(there, volume, back, sitk.sitkLinear))
    original = sitk.GetArrayFromImage(volume)
    return (
        root_mean_square_error(original[inside], again[inside]),
        mutual_information(original[inside], again[inside]),
    )
