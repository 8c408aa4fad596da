"""Hand-computed distances, a float64 loop over all pairs of voxels, and the rules for empty masks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from grand_challenge_metrics.stats import hausdorff_distance
from scipy import ndimage

from nnunet_ext.evaluation.metrics import case_metrics, surface_distances

ONE = {"organ": 1}


def blob(shape: tuple[int, ...], seed: int) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 1.5)
    return (noise > np.quantile(noise, 0.7)).astype(np.uint8)


def surface(mask: np.ndarray) -> list[tuple[int, ...]]:
    """Voxels with a face neighbour that is background or beyond the image, by looking at every neighbour."""
    found = []
    for voxel in zip(*np.nonzero(mask), strict=True):
        for axis, step in itertools.product(range(mask.ndim), (-1, 1)):
            other = list(voxel)
            other[axis] += step
            if not 0 <= other[axis] < mask.shape[axis] or not mask[tuple(other)]:
                found.append(tuple(int(v) for v in voxel))
                break
    return found


def loop(prediction: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...]) -> tuple[float, float, float]:
    """Dice, HD95 and ASSD from the written definitions, in float64."""

    def directed(a: np.ndarray, b: np.ndarray) -> list[float]:
        places = [np.multiply(v, spacing) for v in surface(b)]
        return sorted(min(math.dist(np.multiply(v, spacing), p) for p in places) for v in surface(a))

    def percentile(values: list[float]) -> float:
        place = 0.95 * (len(values) - 1)
        low = math.floor(place)
        high = min(low + 1, len(values) - 1)
        return values[low] + (place - low) * (values[high] - values[low])

    forth, back = directed(prediction, truth), directed(truth, prediction)
    dice = 2 * (prediction & truth).sum() / (prediction.sum() + truth.sum())
    hd95 = max(percentile(forth), percentile(back))
    return float(dice), hd95, math.fsum(forth + back) / len(forth + back)


def test_two_voxels_along_the_thick_axis() -> None:
    prediction, truth = np.zeros((5, 4, 4), int), np.zeros((5, 4, 4), int)
    prediction[1, 2, 2], truth[4, 2, 2] = 1, 1
    score = case_metrics(prediction, truth, ONE, (10.0, 1.5, 1.5))["organ"]
    assert (score.dice, score.hd95, score.assd, score.outcome) == (0.0, 30.0, 30.0, "found")


def test_a_bar_that_is_two_voxels_longer() -> None:
    """Truth: columns 0-3 of one row; prediction: 0-5. From the prediction 0 0 0 0 2 4 mm, from the truth 0 0 0 0."""
    prediction, truth = np.zeros((1, 3, 8), int), np.zeros((1, 3, 8), int)
    prediction[0, 1, :6], truth[0, 1, :4] = 1, 1
    score = case_metrics(prediction, truth, ONE, (8.0, 1.0, 2.0))["organ"]
    assert score.dice == pytest.approx(2 * 4 / 10)
    assert score.hd95 == pytest.approx(2 + 0.75 * 2)  # place 4.75 of 0..5
    assert score.assd == pytest.approx(6 / 10)
    assert (score.predicted_voxels, score.true_voxels) == (6, 4)


def test_pooled_mean_and_larger_percentile_differ_from_a_mean_of_means() -> None:
    """A far voxel in the prediction: 0 and 6 mm one way, 0 the other; pooled 2, mean of means 1.5."""
    prediction, truth = np.array([[1, 0, 0, 1]]), np.array([[1, 0, 0, 0]])
    score = case_metrics(prediction, truth, ONE, (1.0, 2.0))["organ"]
    assert score.assd == pytest.approx(2.0)
    assert score.hd95 == pytest.approx(0.95 * 6)


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((12, 14), (0.7, 1.9)), ((6, 9, 8), (5.0, 1.25, 0.8)), ((1, 12, 11), (9.0, 1.0, 1.0))],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_a_loop_over_all_pairs(shape: tuple[int, ...], spacing: tuple[float, ...], seed: int) -> None:
    prediction, truth = blob(shape, seed), blob(shape, seed + 10)
    score = case_metrics(prediction, truth, ONE, spacing)["organ"]
    kept = [axis for axis, size in enumerate(shape) if size > 1]
    expected = loop(prediction.squeeze(), truth.squeeze(), tuple(spacing[axis] for axis in kept))
    assert (score.dice, score.hd95, score.assd) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", [3, 4])
def test_largest_distance_agrees_with_grand_challenge(seed: int) -> None:
    prediction, truth = blob((7, 16, 15), seed), blob((7, 16, 15), seed + 10)
    spacing = (8.0, 1.4, 1.4)
    forth, back = surface_distances(prediction.astype(bool), truth.astype(bool), spacing)
    assert max(forth.max(), back.max()) == pytest.approx(hausdorff_distance(prediction, truth, spacing), rel=1e-6)


def test_equal_masks_are_perfect_and_swapping_changes_nothing() -> None:
    a, b = blob((5, 12, 12), 5), blob((5, 12, 12), 6)
    spacing = (4.0, 1.0, 1.0)
    same = case_metrics(a, a, ONE, spacing)["organ"]
    assert (same.dice, same.hd95, same.assd) == (1.0, 0.0, 0.0)
    ab, ba = case_metrics(a, b, ONE, spacing)["organ"], case_metrics(b, a, ONE, spacing)["organ"]
    assert (ab.dice, ab.hd95, ab.assd) == pytest.approx((ba.dice, ba.hd95, ba.assd))


def test_spacing_scales_distances_and_not_dice() -> None:
    a, b = blob((5, 12, 12), 7), blob((5, 12, 12), 8)
    small = case_metrics(a, b, ONE, (2.0, 1.0, 1.5))["organ"]
    large = case_metrics(a, b, ONE, (6.0, 3.0, 4.5))["organ"]
    assert (large.dice, large.hd95, large.assd) == pytest.approx((small.dice, 3 * small.hd95, 3 * small.assd))


def test_empty_masks() -> None:
    """Diagonal of 2 x 3 x 6 voxels of 3 x 2 x 1 mm: sqrt(36 + 36 + 36)."""
    empty, full = np.zeros((2, 3, 6), int), np.zeros((2, 3, 6), int)
    full[0, 1, 2:4] = 1
    spacing, diagonal = (3.0, 2.0, 1.0), math.sqrt(108)
    missed = case_metrics(empty, full, ONE, spacing)["organ"]
    invented = case_metrics(full, empty, ONE, spacing)["organ"]
    absent = case_metrics(empty, empty, ONE, spacing)["organ"]
    assert (missed.dice, missed.outcome, invented.dice, invented.outcome) == (0.0, "missed", 0.0, "invented")
    assert [missed.hd95, missed.assd, invented.hd95, invented.assd] == pytest.approx([diagonal] * 4)
    assert absent.outcome == "absent"
    assert all(math.isnan(v) for v in (absent.dice, absent.hd95, absent.assd))


def test_regions_overlap() -> None:
    truth, prediction = np.array([[0, 1, 2, 2]]), np.array([[0, 1, 1, 2]])
    scores = case_metrics(prediction, truth, {"whole": (1, 2), "core": (2,)}, (1.0, 1.0))
    assert scores["whole"].dice == 1.0
    assert scores["core"].dice == pytest.approx(2 / 3)


def test_ignored_voxels_change_nothing() -> None:
    truth = np.array([[1, 1, 9, 9], [0, 0, 9, 9]])
    good = np.array([[1, 1, 1, 0], [0, 0, 1, 1]])
    score = case_metrics(good, truth, ONE, (1.0, 1.0), ignore=9)["organ"]
    assert (score.dice, score.hd95, score.assd) == (1.0, 0.0, 0.0)
    only_there = case_metrics(np.array([[0, 0, 1, 1], [0, 0, 0, 0]]), truth, ONE, (1.0, 1.0), ignore=9)["organ"]
    assert only_there.outcome == "missed"


@pytest.mark.parametrize(("shape", "spacing"), [((3, 4), (1.0, 1.0)), ((3, 3), (1.0, 1.0, 1.0))])
def test_what_does_not_fit_is_refused(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(3, 3\)|2 axes"):
        case_metrics(np.zeros(shape, int), np.zeros((3, 3), int), ONE, spacing)


def test_an_image_of_one_voxel() -> None:
    score = case_metrics(np.ones((1, 1), int), np.ones((1, 1), int), ONE, (1.0, 1.0))["organ"]
    assert (score.dice, score.hd95, score.assd) == (1.0, 0.0, 0.0)
