"""Losses that look at boundaries: squared errors on them, and errors weighed by their distance from them in mm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional as F

from nnunet_ext.losses.precision import wide


def label_boundary(labels: Tensor, known: Tensor | None = None) -> Tensor:
    """Voxels with a face neighbour of another label, on both sides of every boundary.

    Args:
        labels: (B, *S) integers.
        known: (B, *S) bool; there is no boundary beside a voxel whose label is not known.

    Returns:
        (B, *S) bool; the border of the image is no boundary.
    """
    boundary = torch.zeros_like(labels, dtype=torch.bool)
    for axis in range(1, labels.ndim):
        n = labels.shape[axis]
        if n < 2:
            continue
        differ = labels.narrow(axis, 1, n - 1) != labels.narrow(axis, 0, n - 1)
        if known is not None:
            differ &= known.narrow(axis, 1, n - 1) & known.narrow(axis, 0, n - 1)
        boundary.narrow(axis, 1, n - 1).logical_or_(differ)
        boundary.narrow(axis, 0, n - 1).logical_or_(differ)
    return boundary


def boundary_loss(probabilities: Tensor, labels: Tensor, truth_weight: float = 1.0) -> Tensor:
    """Squared error on the boundaries of the prediction and of the truth (CBAL, eq. 6).

    B_seg is where the likeliest class changes, B_gt where the label does, for all classes together; the error of a
    voxel is ||P - Y||^2 over the classes. The paper prints sums over boundary voxels; these are means, so that the
    weight does not depend on how much boundary there is.

    Args:
        probabilities: (B, K, *S).
        labels: (B, *S) integers; a value outside [0, K) marks a voxel that does not count.
        truth_weight: lambda_boundary of eq. 6.

    Returns:
        A scalar >= 0; a side without any boundary adds 0 with a zero gradient.
    """
    classes = probabilities.shape[1]
    with torch.autocast(probabilities.device.type, enabled=False):
        probabilities = wide(probabilities)
        known = (labels >= 0) & (labels < classes)
        error = (probabilities - _one_hot(labels, known, probabilities)).square().sum(1)
        parts = []
        for there in (label_boundary(probabilities.argmax(1)), label_boundary(labels, known)):
            there = there & known
            parts.append((error * there).sum() / there.sum().clamp_min(1))
        return parts[0] + truth_weight * parts[1]


def signed_distances(labels: np.ndarray, classes: int, spacing: Sequence[float]) -> np.ndarray:
    """Distance in mm of every voxel from the boundary of every foreground class, negative inside.

    Outside it is the distance to the nearest voxel of the class, inside that to the nearest voxel beyond it, between
    centres. A class that is absent, or that fills everything, has no boundary here: its map is 0.

    Args:
        labels: (*S) integers; a value outside [0, K) is not known to be inside of any class, nor to be outside.
        classes: K, background included.
        spacing: mm per axis.

    Returns:
        (K - 1, *S) float32.
    """
    maps = np.zeros((classes - 1, *labels.shape), np.float32)
    known = (labels >= 0) & (labels < classes)
    for c in range(1, classes):
        inside = labels == c
        outside = known & ~inside
        if inside.any() and outside.any():
            maps[c - 1] = np.where(
                inside,
                -distance_transform_edt(~outside, sampling=spacing),
                distance_transform_edt(~inside, sampling=spacing),
            )
    return maps


def distance_loss(probabilities: Tensor, labels: Tensor, distances: Tensor) -> Tensor:
    """Misplaced probability times how far it is from the true boundary: the signed-distance penalty, in mm.

    phi (P - Y), summed over foreground classes and averaged over voxels. phi is negative exactly where Y is 1, so
    every voxel's share is abs(phi) abs(P - Y) >= 0, linear in P, and 0 for a perfect prediction. Without the constant
    phi Y it is the boundary loss of Kervadec et al. (MIDL 2019).

    Args:
        probabilities: (B, K, *S).
        labels: (B, *S) integers; a value outside [0, K) marks a voxel that does not count.
        distances: (B, K - 1, *S) as of `signed_distances`, mm.

    Returns:
        A scalar, mm.
    """
    with torch.autocast(probabilities.device.type, enabled=False):
        probabilities = wide(probabilities)
        known = (labels >= 0) & (labels < probabilities.shape[1])
        error = probabilities[:, 1:] - _one_hot(labels, known, probabilities)[:, 1:]
        penalty = (distances.to(error.dtype) * error).sum(1)
        return (penalty * known).sum() / known.sum().clamp_min(1)


def _one_hot(labels: Tensor, known: Tensor, like: Tensor) -> Tensor:
    return F.one_hot(torch.where(known, labels, 0).long(), like.shape[1]).movedim(-1, 1).to(like.dtype)
