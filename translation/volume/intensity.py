"""Intensities: from a scan's own units to [-1, 1] and back, by curves through percentiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Curve:
    """A piecewise linear, non-decreasing map through the points (x_i, y_i); constant beyond the first and last.

    Two points make robust scaling; the percentiles of a scan against those of its cohort make histogram matching
    (Nyul and Udupa 1999). What is beyond the last percentile saturates.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __call__(self, values: NDArray) -> NDArray[np.float32]:
        return np.interp(values, self.x, self.y).astype(np.float32)


def percentile_grid(percentiles: tuple[float, float]) -> NDArray[np.float64]:
    """The percentiles that describe a histogram: the two outer ones and every whole one between."""
    low, high = percentiles
    inner = np.arange(np.floor(low) + 1, np.ceil(high))
    return np.unique([low, *inner[(inner > low) & (inner < high)], high])


def curve(own: Sequence[float], target: Sequence[float]) -> Curve:
    """The curve that maps one histogram's percentiles to another's.

    Equal percentiles of `own` (a large flat background) are one point: the mean of what they map to, so that the map
    stays a function. A constant scan maps to the lowest target.
    """
    x, where = np.unique(np.asarray(own, float), return_inverse=True)
    if len(x) == 1:
        return Curve((float(x[0]),), (float(target[0]),))
    y = np.bincount(where, weights=np.asarray(target, float)) / np.bincount(where)
    return Curve(tuple(x.tolist()), tuple(y.tolist()))


def unscale(volume: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """[-1, 1] -> [low, high] in the target's own units: (v + 1) / 2 * (high - low) + low."""
    return ((volume + 1) / 2 * (high - low) + low).astype(np.float32)
