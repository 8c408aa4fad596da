"""Several labelled volumes search the same volume: they must find the organ in the same place.

Each labelled volume's starts put its labels somewhere in the unlabelled volume. A start that the others' starts
contradict is a look-alike (a liver's edge, the stomach), however well it correlates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_ext.registration.frames import Matrix, affine_transform
from nnunet_ext.registration.search import Start

ROUNDS = 3
# How sharply a volume prefers its own better starts, and the better volumes, in units of correlation.
WITHIN, BETWEEN = 0.05, 0.1


def choose(
    starts: Sequence[Sequence[Start]], labels: Sequence[sitk.Image], fixed: sitk.Image, weight: float
) -> tuple[list[int], list[float]]:
    """For each labelled volume the index of its best start and that start's agreement with the other volumes.

    Args:
        starts: per labelled volume, as `search` returns them.
        labels: per labelled volume, its labels in its frame.
        fixed: grid (frame of the volume searched) on which labels are compared; a coarse one will do.
        weight: of the agreement (mean Dice, 0 to 1) against the start's correlation.
    """
    if len(starts) < 2 or weight == 0:
        return [0] * len(starts), [0.0] * len(starts)
    values = sorted({int(v) for image in labels for v in np.unique(sitk.GetArrayViewFromImage(image))} - {0})
    placed = [
        np.stack([_one_hot(image, fixed, start.matrix, values) for start in own])
        for image, own in zip(labels, starts, strict=True)
    ]
    scores = [np.array([start.score for start in own]) for own in starts]
    total, agreements = scores, [np.zeros(len(own)) for own in starts]
    for _ in range(ROUNDS):
        shares = [_softmax(own, WITHIN) for own in total]
        means = [np.tensordot(share, maps, 1) for share, maps in zip(shares, placed, strict=True)]
        trust = np.array([(share * own).sum() for share, own in zip(shares, total, strict=True)])
        agreements = []
        for k, maps in enumerate(placed):
            others = [j for j in range(len(placed)) if j != k]
            belief = np.tensordot(_softmax(trust[others], BETWEEN), np.stack([means[j] for j in others]), 1)
            agreements.append(np.array([_soft_dice(one, belief) for one in maps]))
        total = [score + weight * agreement for score, agreement in zip(scores, agreements, strict=True)]
    picks = [int(np.argmax(own)) for own in total]
    return picks, [float(agreement[pick]) for agreement, pick in zip(agreements, picks, strict=True)]


def _one_hot(labels: sitk.Image, fixed: sitk.Image, matrix: Matrix, values: Sequence[int]) -> NDArray[np.float32]:
    placed = sitk.GetArrayFromImage(sitk.Resample(labels, fixed, affine_transform(matrix), sitk.sitkNearestNeighbor, 0))
    return np.stack([placed == value for value in values]).astype(np.float32)


def _softmax(values: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    weights = np.exp((values - values.max()) / temperature)
    return weights / weights.sum()


def _soft_dice(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Mean over labels of 2 |ab| / (|a| + |b|); a label that neither has does not count."""
    both = one.sum((1, 2, 3)) + other.sum((1, 2, 3))
    present = both > 0
    if not present.any():
        return 0.0
    return float((2 * (one * other).sum((1, 2, 3))[present] / both[present]).mean())
