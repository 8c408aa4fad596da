"""Known maps are found again; whatever is wrong with an image becomes a recorded failure."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from registration_phantoms import blob_stack, dice

from nnunet_ext.registration.frames import Frame
from nnunet_ext.registration.pairwise import folding, register, register_case
from nnunet_ext.registration.refine import Field


def test_the_transform_maps_fixed_points_to_moving_points(quick):
    """The organ lies 24 mm further right in the fixed volume: its centre there must map to the moving one's centre."""
    fixed, _ = blob_stack(shift=(16, -6), seed=1)
    moving, mask = blob_stack(shift=(-8, 4), seed=2)
    outcome = register(fixed, moving, quick, moving_mask=mask)
    assert outcome.failure is None
    # The centre of a 64 x 60 x 6 grid of 2 x 2 x 8 mm is (63, 59, 20).
    there, here = (63.0 + 16, 59.0 - 6, 20.0), (63.0 - 8, 59.0 + 4, 20.0)
    assert outcome.transform.TransformPoint(there) == pytest.approx(here, abs=2.0)
    assert outcome.inverse.TransformPoint(here) == pytest.approx(there, abs=2.0)


@pytest.mark.parametrize(("angle", "scale"), [(25, 1.0), (-20, 1.2), (0, 0.8)])
def test_rotation_and_size_are_found(quick, angle, scale):
    fixed, truth = blob_stack((6, 4), angle, scale, seed=3)
    moving, mask = blob_stack(seed=4)
    outcome = register(fixed, moving, quick, moving_mask=mask)
    carried = sitk.Resample(mask, fixed, outcome.transform, sitk.sitkNearestNeighbor)
    assert dice(carried, truth) > 0.85
    linear = np.array(outcome.transform.GetMatrix()).reshape(3, 3)[:2, :2]
    assert np.sqrt(abs(np.linalg.det(linear))) == pytest.approx(1 / scale, rel=0.1)
    turn = np.rad2deg(np.arctan2(linear[1, 0] - linear[0, 1], linear[0, 0] + linear[1, 1]))
    assert turn == pytest.approx(-angle, abs=6)


def test_the_two_directions_undo_each_other(quick):
    fixed, _ = blob_stack((10, 0), 15, seed=5)
    moving, mask = blob_stack(seed=6)
    outcome = register(fixed, moving, quick, moving_mask=mask)
    organ = np.argwhere(sitk.GetArrayFromImage(mask) > 0)[::97, ::-1]
    for index in organ.tolist():
        point = np.array(moving.TransformIndexToPhysicalPoint(index))
        assert np.linalg.norm(outcome.transform.TransformPoint(outcome.inverse.TransformPoint(point)) - point) < 4


@pytest.mark.parametrize("where", ["oblique", "flipped"])
def test_orientation_does_not_matter(quick, where):
    """The same scan stored on an oblique or a left-handed, flipped grid carries the same labels over."""
    fixed, truth = blob_stack((12, -4), seed=7)
    moving, mask = blob_stack(seed=8)
    if where == "flipped":
        fixed, truth = (sitk.Flip(image, (True, False, True)) for image in (fixed, truth))
    else:
        rotation = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.5, 0.2).GetMatrix()
        for image in (fixed, truth):
            image.SetDirection(rotation)
            image.SetOrigin((40.0, -90.0, 200.0))
    outcome = register(fixed, moving, quick, moving_mask=mask)
    assert outcome.failure is None
    assert dice(sitk.Resample(mask, fixed, outcome.transform, sitk.sitkNearestNeighbor), truth) > 0.85


def test_fields_of_view_and_slice_counts_may_differ(quick):
    fixed, truth = blob_stack((20, 10), size=(90, 80, 9), seed=9)
    moving, mask = blob_stack(seed=10)
    outcome = register(fixed, moving, quick, moving_mask=mask)
    assert dice(sitk.Resample(mask, fixed, outcome.transform, sitk.sitkNearestNeighbor), truth) > 0.8


def test_a_displacement_follows_what_no_affine_map_can(quick):
    """The fixed volume is the moving one bent by a known bump; the deformable map must carry labels better."""
    moving, mask = blob_stack(seed=11)
    bump = np.zeros((6, 60, 64, 3))
    y, x = np.mgrid[:60, :64]
    bump[..., 0] = 6 * np.exp(-(((x - 38) / 7.0) ** 2 + ((y - 28) / 7.0) ** 2))
    field = sitk.GetImageFromArray(bump, isVector=True)
    field.CopyInformation(moving)
    bend = sitk.DisplacementFieldTransform(field)
    fixed = sitk.Resample(moving, moving, bend, sitk.sitkLinear, 60.0)
    truth = sitk.Resample(mask, mask, bend, sitk.sitkNearestNeighbor)
    scores = {}
    for kind in ("affine", "deformable"):
        outcome = register(fixed, moving, quick.model_copy(update={"transform": kind}), moving_mask=mask)
        scores[kind] = dice(sitk.Resample(mask, fixed, outcome.transform, sitk.sitkNearestNeighbor), truth)
    assert scores["deformable"] > scores["affine"] + 0.02


def test_a_better_match_scores_better(quick):
    """The same anatomy must beat another one by every score."""
    moving, mask = blob_stack(seed=12)
    same, _ = blob_stack((8, 4), seed=13)
    rng = np.random.default_rng(0)
    noise = sitk.GetImageFromArray(rng.normal(100, 30, (6, 60, 64)).astype(np.float32))
    noise.CopyInformation(moving)
    good, poor = (register(fixed, moving, quick, moving_mask=mask).scores for fixed in (same, noise))
    assert good["similarity"] > poor["similarity"] + 0.2
    assert good["cycle"] < poor["cycle"]


def _constant(image):
    return image * 0


def _one_slice(image):
    return image[:, :, :1]


def _not_a_number(image):
    image = sitk.Image(image)
    image[3, 3, 3] = float("nan")
    return image


@pytest.mark.parametrize(
    ("spoil", "word"), [(_constant, "constant"), (_one_slice, "at least 2"), (_not_a_number, "finite")]
)
def test_garbage_is_a_recorded_failure(quick, spoil, word):
    fixed, _ = blob_stack(seed=14)
    moving, mask = blob_stack(seed=15)
    broken = register(spoil(fixed), moving, quick, moving_mask=mask)
    assert broken.transform is None
    assert word in broken.failure
    assert "fixed" in broken.failure


def test_a_broken_labelled_volume_costs_only_its_own_pair(quick):
    fixed, _ = blob_stack(seed=16)
    good, labels = blob_stack(seed=17)
    outcomes = register_case(fixed, [(_constant(good), labels), (good, labels), (good, labels * 0)], quick)
    assert [o.failure is None for o in outcomes] == [False, True, False]
    assert "constant" in outcomes[0].failure
    assert "labels are empty" in outcomes[2].failure
    assert outcomes[1].seconds > 0


def test_an_implausible_scale_is_a_failure(quick):
    fixed, _ = blob_stack(scale=0.8, seed=18)
    moving, mask = blob_stack(seed=19)
    outcome = register(fixed, moving, quick.model_copy(update={"max_scale": 1.05}), moving_mask=mask)
    assert outcome.transform is None
    assert "scales by" in outcome.failure


def test_folding_counts_reversed_voxels():
    """u = -2 x on half of the grid turns it inside out: determinant 1 - 2 = -1 there, 1 elsewhere."""
    region = sitk.Image([10, 4, 3], sitk.sitkFloat32)
    values = np.zeros((3, 4, 10, 3))
    assert folding(Field(values, region)) == 0
    values[:, :, 5:, 0] = -2.0 * np.arange(5)
    # np.gradient is central: columns 6 to 9 have slope -2, column 5 has (-2 - 0) / 2 = -1, determinant 0.
    assert folding(Field(values, region)) == pytest.approx(0.5)


def test_a_frame_keeps_physical_places():
    image = sitk.Image([5, 7, 4], sitk.sitkFloat32)
    image.SetSpacing((2.0, 6.0, 1.5))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), 0.4, 0.1, -0.3).GetMatrix())
    image.SetOrigin((10.0, 20.0, -5.0))
    image[1, 5, 2] = 1.0
    frame = Frame.of(image)
    view = frame.view(image)
    index = np.argwhere(sitk.GetArrayFromImage(view) == 1)[0, ::-1].tolist()
    point = frame.to_patient @ np.array([*view.TransformIndexToPhysicalPoint(index), 1.0])
    assert point[:3] == pytest.approx(image.TransformIndexToPhysicalPoint((1, 5, 2)), abs=1e-9)
    assert view.GetSpacing()[2] == 6.0
    assert np.linalg.det(frame.to_patient[:3, :3]) == pytest.approx(1)


@pytest.mark.parametrize(("spacing", "axis"), [((1.0, 1.0, 1.0), 1), ((1.0, 1.0, 6.0), 2)])
def test_a_coronal_stack_beside_a_volume_and_beside_an_axial_stack(spacing, axis):
    """Beside thin slices in all directions it stays as it lies; beside another stack the slice axes meet."""
    fixed, coronal = sitk.Image([20, 20, 20], sitk.sitkFloat32), sitk.Image([20, 6, 20], sitk.sitkFloat32)
    fixed.SetSpacing(spacing)
    coronal.SetSpacing((1.0, 6.0, 1.0))
    frame = Frame.of(coronal, Frame.of(fixed))
    assert frame.axes.index(1) == axis
