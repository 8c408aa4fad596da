from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from translation.gate import GateSettings, Verdict, auc, coverage, judge, losses, separability
from translation.volume.grid import Grid, Placement

SETTINGS = GateSettings()
NAMES = {"background": 0, "ring": 2, "core": 5}


def phantom():
    """A core inside a ring inside background, by class index 2, 1 and 0."""
    y, x = np.mgrid[:40, :40] - 19.5
    radius = np.hypot(x, y)
    labels = np.zeros((3, 40, 40), np.int16)
    labels[:, radius < 12] = 1
    labels[:, radius < 6] = 2
    rng = np.random.default_rng(0)
    values = np.array([0.0, 1.0, 2.0])[labels] + 0.1 * rng.normal(size=labels.shape)
    return values.astype(np.float32), labels


def test_auc_by_hand():
    assert auc(np.array([2, 3]), np.array([0, 1])) == 1
    assert auc(np.array([0, 1]), np.array([2, 3])) == 0
    assert auc(np.array([1, 1]), np.array([1, 1])) == 0.5
    assert auc(np.array([1, 3]), np.array([2])) == 0.5


def test_separable_structures_and_inverted_contrast():
    values, labels = phantom()
    for structure in (1, 2):
        assert separability(values, labels, structure, SETTINGS) > 0.99
        assert separability(-values, labels, structure, SETTINGS) > 0.99


def test_washed_out_structure_is_lost_and_the_other_is_not():
    values, labels = phantom()
    translated = values.copy()
    translated[labels == 2] = values[labels == 1][: (labels == 2).sum()]
    verdicts = {v.structure: v for v in judge("a", values, translated, labels, NAMES, SETTINGS)}
    assert verdicts["core"].lost
    assert not verdicts["ring"].lost


def test_moved_structure_is_lost():
    values, labels = phantom()
    moved = np.roll(values, 14, axis=2)
    assert {v.structure for v in judge("a", values, moved, labels, NAMES, SETTINGS) if v.lost} == {"core", "ring"}


def test_what_the_source_never_showed_is_not_held_against_the_translation():
    _, labels = phantom()
    noise = np.random.default_rng(1).normal(size=labels.shape).astype(np.float32)
    assert not any(v.lost for v in judge("a", noise, noise, labels, NAMES, SETTINGS))


def test_tiny_and_absent_structures_are_not_judged():
    values, labels = phantom()
    labels[labels == 2] = 1
    labels[0, 0, 0] = 2
    assert [v.structure for v in judge("a", values, values, labels, NAMES, SETTINGS)] == ["ring"]


@pytest.mark.parametrize(("lost", "fails"), [(1, False), (2, True)])
def test_tolerance_is_a_part_of_the_cases(lost, fails):
    verdicts = [Verdict(f"c{i}", "core", 1.0, 0.0, 1.0, i < lost) for i in range(10)]
    verdicts += [Verdict(f"c{i}", "ring", 1.0, 1.0, 1.0, False) for i in range(10)]
    (loss,) = losses(verdicts, SETTINGS)
    assert (loss.structure, loss.judged, loss.tolerated) == ("core", 10, not fails)
    assert [v.case for v in loss.lost] == ["c0", "c1"][:lost]


def box_of_labels():
    """Voxels of 1 x 1 x 5 mm; `ring` (2) fills columns 0 to 19 and `core` (5) columns 20 to 29."""
    array = np.zeros((4, 30, 40), np.int16)
    array[:, 5:25, :20], array[:, 5:25, 20:30] = 2, 5
    label = sitk.GetImageFromArray(array)
    label.SetSpacing((1.0, 1.0, 5.0))
    return label


def part_covered(first_column, columns, pixel=1.0, affine=None):
    """What `coverage` says of a working grid that begins at a column of the box and has so many."""
    label = box_of_labels()
    own = Grid.of(label)
    size = (int(columns / pixel), int(30 / pixel), 4)
    grid = Grid(size, (pixel, pixel, 5.0), (first_column, 0.0, 0.0), own.direction)
    placement = Placement(own, grid, affine)
    moved = placement.forward_labels(label)
    indices = np.searchsorted([0, 2, 5], moved).astype(np.int16)
    return coverage(label, indices, placement, NAMES, SETTINGS)


def test_coverage_by_hand():
    assert part_covered(0, 40) == {"ring": 1, "core": 1}
    assert part_covered(0, 25) == {"ring": 1, "core": 0.5}
    assert part_covered(15, 25) == {"ring": 0.25, "core": 1}
    assert part_covered(35, 5) == {"ring": 0, "core": 0}


def test_coverage_of_coarser_grids_and_affine_maps_is_about_one():
    swollen = sitk.AffineTransform(3)
    swollen.SetMatrix([0.8, 0, 0, 0, 0.8, 0, 0, 0, 1])
    for found in (part_covered(0, 40, pixel=2.5), part_covered(0, 48, affine=swollen)):
        assert found == pytest.approx({"ring": 1, "core": 1}, rel=0.15)
    # A registration that shrinks the scan to less than a voxel loses everything.
    collapsed = sitk.AffineTransform(3)
    collapsed.SetMatrix([1000.0, 0, 0, 0, 1000, 0, 0, 0, 1000])
    collapsed.SetTranslation([-500, -500, -500])
    assert part_covered(0, 40, affine=collapsed) == {"ring": 0, "core": 0}


def test_structure_outside_the_working_grid_is_lost():
    values, labels = phantom()
    verdicts = {v.structure: v for v in judge("a", values, values, labels, NAMES, SETTINGS, {"core": 0.3, "ring": 0.6})}
    assert verdicts["core"].lost
    assert verdicts["core"].outside
    assert not verdicts["ring"].lost
    # Also where nothing of it is left on the grid.
    labels[labels == 2] = 0
    assert judge("a", values, values, labels, NAMES, SETTINGS, {"core": 0.0})[-1].outside
