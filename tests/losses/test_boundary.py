"""Boundary error (CBAL, eq. 6) and the signed-distance penalty, by hand, by loops and by geometry."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from nnunet_ext.losses.boundary import boundary_loss, distance_loss, label_boundary, signed_distances


def test_boundary_has_two_sides_and_the_border_is_none():
    labels = torch.tensor([[[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [2, 0, 0, 0]]])
    expected = [[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0]]
    assert label_boundary(labels)[0].int().tolist() == expected
    assert not label_boundary(torch.ones(1, 3, 3, dtype=torch.long)).any()


def test_boundary_in_3d_looks_across_slices():
    labels = torch.zeros(1, 3, 2, 2, dtype=torch.long)
    labels[0, 0] = 1
    assert label_boundary(labels)[0].flatten(1).all(1).tolist() == [True, True, False]


def test_boundary_loss_by_hand():
    # One row of 4 voxels: truth 0 0 1 1, prediction 0 0 0 1, so B_gt is voxels 1 and 2, B_seg is 2 and 3.
    labels = torch.tensor([[[0, 0, 1, 1]]])
    foreground = torch.tensor([0.1, 0.2, 0.4, 0.9])
    probabilities = torch.stack((1 - foreground, foreground)).reshape(1, 2, 1, 4)
    error = [2 * x**2 for x in (0.1, 0.2, 0.6, 0.1)]
    segmented, truth = (error[2] + error[3]) / 2, (error[1] + error[2]) / 2
    assert boundary_loss(probabilities, labels, 0.5).item() == pytest.approx(segmented + 0.5 * truth)


@pytest.mark.parametrize("size", [(4, 5), (3, 4, 3)])
def test_boundary_loss_against_a_loop(size):
    torch.manual_seed(0)
    probabilities = torch.randn(2, 3, *size, dtype=torch.float64).softmax(1)
    labels = torch.randint(0, 4, (2, *size))  # 3 is the ignore label
    predicted = probabilities.argmax(1)

    def on_boundary(volume, b, place):
        for axis, step in product(range(len(size)), (-1, 1)):
            other = list(place)
            other[axis] += step
            if 0 <= other[axis] < size[axis] and volume[(b, *other)] not in (volume[(b, *place)], 3):
                return True
        return False

    sums, counts = [0.0, 0.0], [0, 0]
    for b in range(2):
        for place in product(*(range(n) for n in size)):
            label = int(labels[(b, *place)])
            if label == 3:
                continue
            p = probabilities[(b, slice(None), *place)].tolist()
            error = sum((x - (c == label)) ** 2 for c, x in enumerate(p))
            for side, volume in enumerate((predicted, labels)):
                if on_boundary(volume, b, place):
                    sums[side] += error
                    counts[side] += 1
    expected = sums[0] / counts[0] + 2 * sums[1] / counts[1]
    assert boundary_loss(probabilities, labels, 2.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 3)])
def test_gradients(size):
    torch.manual_seed(1)
    logits = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, *size))
    distances = torch.from_numpy(
        np.stack([signed_distances(x.numpy(), 3, (2.0, 1.0, 1.0)[-len(size) :]) for x in labels])
    )
    torch.autograd.gradcheck(lambda x: boundary_loss(x.softmax(1), labels), logits)
    torch.autograd.gradcheck(lambda x: distance_loss(x.softmax(1), labels, distances.double()), logits)


def test_no_boundary_no_loss():
    probabilities = torch.full((1, 2, 3, 3), 0.5, requires_grad=True)
    loss = boundary_loss(probabilities, torch.zeros(1, 3, 3, dtype=torch.long))
    loss.backward()
    assert loss == 0
    assert (probabilities.grad == 0).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (8.0, 1.5)])
def test_distances_of_one_voxel_are_euclidean_in_mm(spacing):
    labels = np.zeros((3, 5), int)
    labels[1, 2] = 1
    (found,) = signed_distances(labels, 2, spacing)
    for i, j in product(range(3), range(5)):
        wanted = math.hypot((i - 1) * spacing[0], (j - 2) * spacing[1])
        assert found[i, j] == pytest.approx(wanted if (i, j) != (1, 2) else -min(spacing))


def test_distances_against_all_pairs_in_3d():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (3, 4, 5))
    spacing = np.array((5.0, 1.5, 0.7))
    found = signed_distances(labels, 3, spacing)
    places = np.argwhere(labels >= 0)
    for c in (1, 2):
        for place in places:
            inside = labels[tuple(place)] == c
            others = places[(labels[tuple(places.T)] == c) != inside]
            nearest = np.sqrt((((others - place) * spacing) ** 2).sum(1)).min()
            assert found[c - 1][tuple(place)] == pytest.approx(-nearest if inside else nearest, rel=1e-5)


def test_absent_and_filling_classes_have_no_distances():
    assert not signed_distances(np.zeros((3, 3), int), 3, (1, 1)).any()
    assert not signed_distances(np.ones((3, 3), int), 2, (1, 1)).any()


def test_distance_loss_by_hand():
    # 0 0 1 1 at 2 mm: distances 4 2 -2 -4. A prediction of voxel 0 alone is 4 mm off there, and misses 2 + 4.
    labels = torch.tensor([[[0, 0, 1, 1]]])
    distances = torch.from_numpy(signed_distances(labels[0].numpy(), 2, (1.0, 2.0)))[None]
    assert distances.flatten().tolist() == [4, 2, -2, -4]
    foreground = torch.tensor([1.0, 0, 0, 0])
    probabilities = torch.stack((1 - foreground, foreground)).reshape(1, 2, 1, 4)
    assert distance_loss(probabilities, labels, distances).item() == pytest.approx((4 + 2 + 4) / 4)
    perfect = torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    assert distance_loss(perfect, labels, distances) == 0


def test_ignored_voxels_do_not_count():
    torch.manual_seed(2)
    probabilities = torch.randn(1, 3, 4, 4).softmax(1)
    labels = torch.randint(0, 3, (1, 4, 4))
    distances = torch.randn(1, 2, 4, 4)
    whole = distance_loss(probabilities[..., :2], labels[..., :2], distances[..., :2])
    hidden = labels.clone()
    hidden[..., 2:] = 3
    torch.testing.assert_close(distance_loss(probabilities, hidden, distances), whole)
    hidden[..., 2:] = -1
    torch.testing.assert_close(distance_loss(probabilities, hidden, distances), whole)
    hidden[:] = 3
    assert distance_loss(probabilities, hidden, distances) == 0
    assert boundary_loss(probabilities, hidden) == 0


def test_distance_loss_grows_with_spacing():
    labels = torch.zeros(1, 6, 6, dtype=torch.long)
    labels[0, 2:4, 2:4] = 1
    probabilities = torch.full((1, 2, 6, 6), 0.5)
    once, twice = (torch.from_numpy(signed_distances(labels[0].numpy(), 2, (s, s)))[None] for s in (1.0, 2.0))
    torch.testing.assert_close(
        2 * distance_loss(probabilities, labels, once), distance_loss(probabilities, labels, twice)
    )


def test_an_ignored_voxel_is_neither_inside_nor_outside():
    # Row of 6 voxels at 2 mm: the class ends somewhere in the two that are ignored (value 2, of two classes).
    maps = signed_distances(np.array([[1, 1, 2, 2, 0, 0]]), 2, (1.0, 2.0))
    assert maps[0, 0, [0, 1, 4, 5]].tolist() == [-8, -6, 6, 8]
    assert not signed_distances(np.array([[1, 1, 2, 2]]), 2, (1.0, 1.0)).any()
    labels = torch.tensor([[[1, 1, 2, 2, 0, 0]]])
    assert not label_boundary(labels, labels < 2).any()
