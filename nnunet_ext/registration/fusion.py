"""From transforms to labels: propagation through one map, fusion of several."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

# How sharply better scores outweigh worse ones in weighted fusion.
TEMPERATURE = 0.1


def propagate(labels: sitk.Image, like: sitk.Image, transform: sitk.Transform) -> sitk.Image:
    """Labels on the grid of `like`; background where the labelled volume does not reach.

    Each label is resampled linearly and the largest wins, which leaves smoother borders than nearest neighbour.

    Args:
        labels: integer labels of the labelled volume.
        like: gives the grid.
        transform: points of `like` -> points of `labels`.
    """
    return _image(np.argmax(_shares(labels, like, transform, _values(labels)), 0), _values(labels), like)


def fuse(
    labels: Sequence[sitk.Image],
    like: sitk.Image,
    transforms: Sequence[sitk.Transform],
    scores: Sequence[float],
    how: str,
) -> sitk.Image:
    """One label image from several labelled volumes.

    Args:
        labels, transforms: as for `propagate`, one per labelled volume.
        scores: larger is better; `best` takes the largest, `weighted` uses softmax(score / 0.1).
        how: `best`, `majority`, `weighted` or `staple` (SimpleITK's multi-label STAPLE; undecided becomes background).
    """
    if how == "best" or len(labels) == 1:
        best = int(np.argmax(scores))
        return propagate(labels[best], like, transforms[best])
    if how == "staple":
        votes = [propagate(image, like, t) for image, t in zip(labels, transforms, strict=True)]
        fused = sitk.MultiLabelSTAPLE(votes, 255)
        fused = sitk.Mask(fused, fused != 255)
        fused.CopyInformation(like)
        return sitk.Cast(fused, sitk.sitkUInt8)
    values = sorted({v for image in labels for v in _values(image)})
    weights = np.full(len(labels), 1 / len(labels))
    if how == "weighted":
        weights = np.exp((np.asarray(scores) - np.max(scores)) / TEMPERATURE)
        weights /= weights.sum()
    total = np.zeros((len(values), *like.GetSize()[::-1]), np.float32)
    for image, transform, weight in zip(labels, transforms, weights, strict=True):
        shares = _shares(image, like, transform, values)
        if how == "majority":
            shares = (np.argmax(shares, 0)[None] == np.arange(len(values)).reshape(-1, 1, 1, 1)).astype(np.float32)
        total += weight * shares
    return _image(np.argmax(total, 0), values, like)


def _values(labels: sitk.Image) -> list[int]:
    """The label values, background first."""
    return sorted({0, *(int(v) for v in np.unique(sitk.GetArrayViewFromImage(labels)))})


def _shares(
    labels: sitk.Image, like: sitk.Image, transform: sitk.Transform, values: Sequence[int]
) -> NDArray[np.float32]:
    """(len(values), z, y, x): how much of each label lies at each voxel; background is what the others leave."""
    shares = np.zeros((len(values), *like.GetSize()[::-1]), np.float32)
    for index, value in enumerate(values):
        if value:
            one = sitk.Cast(labels == value, sitk.sitkFloat32)
            shares[index] = sitk.GetArrayFromImage(sitk.Resample(one, like, transform, sitk.sitkLinear, 0.0))
    shares[0] = 1 - shares[1:].sum(0)
    return shares


def _image(index: NDArray[np.intp], values: Sequence[int], like: sitk.Image) -> sitk.Image:
    image = sitk.GetImageFromArray(np.asarray(values, np.uint8)[index])
    image.CopyInformation(like)
    return image
