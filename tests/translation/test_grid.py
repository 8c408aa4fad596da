from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.spatial.transform import Rotation

from translation.volume.grid import Grid, Placement, through_plane_axis, working_grid


def scan(size, spacing, euler=(0, 0, 0), flips=(1, 1, 1), origin=(12.5, -40.25, 7.125)):
    """A smooth image that is a function of physical position only."""
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    direction = Rotation.from_euler("xyz", euler, degrees=True).as_matrix() @ np.diag(flips).astype(float)
    image.SetDirection(direction.ravel().tolist())
    index = np.stack(np.meshgrid(*(np.arange(n) for n in size), indexing="ij"), -1) * np.array(spacing)
    points = index @ direction.T + np.array(origin)
    values = 100 + points @ np.array([1.0, -0.5, 0.25])
    out = sitk.GetImageFromArray(values.transpose(2, 1, 0).astype(np.float32))
    out.CopyInformation(image)
    return out


CASES = {
    "plain": scan((20, 24, 6), (1.5, 1.5, 10.0)),
    "oblique": scan((20, 24, 6), (1.25, 1.5, 8.0), (20, -35, 50)),
    "flipped": scan((20, 24, 6), (1.5, 1.5, 9.0), flips=(-1, 1, -1)),
    "sagittal": scan((6, 24, 20), (8.0, 1.5, 1.5), (0, 10, 0)),
    "coronal": scan((20, 6, 24), (1.5, 8.0, 1.5)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("spacing", [(None, None, None), (2.0, 2.0, None), (1.0, 1.0, 4.0)])
def test_round_trip_keeps_geometry_and_values(name, spacing):
    image = CASES[name]
    placement = Placement(Grid.of(image), working_grid(Grid.of(image), spacing))
    back = placement.backward(placement.forward(image))
    assert back.GetSize() == image.GetSize()
    assert back.GetSpacing() == image.GetSpacing()
    assert back.GetOrigin() == image.GetOrigin()
    assert back.GetDirection() == image.GetDirection()
    assert back.GetPixelID() == sitk.sitkFloat32
    got, wanted = (sitk.GetArrayFromImage(i) for i in (back, image))
    # A linear image survives linear interpolation; the outermost voxels may be extrapolated by the nearest.
    assert got[1:-1, 2:-2, 2:-2] == pytest.approx(wanted[1:-1, 2:-2, 2:-2], abs=1.5 if None not in spacing else 0.6)
    if spacing == (None, None, None):
        assert got == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("name", CASES)
def test_slices_are_the_first_array_axis(name):
    image = CASES[name]
    grid = working_grid(Grid.of(image), (2.0, 2.0, None))
    volume = Placement(Grid.of(image), grid).forward(image)
    assert volume.shape[0] == 6
    assert grid.spacing[2] == max(image.GetSpacing())
    assert grid.spacing[:2] == (2.0, 2.0)


def test_working_values_are_those_of_the_physical_position():
    image = CASES["oblique"]
    grid = working_grid(Grid.of(image), (2.0, 2.0, None))
    volume = Placement(Grid.of(image), grid).forward(image)
    z, y, x = 3, 5, 6
    direction = np.reshape(grid.direction, (3, 3))
    point = np.array(grid.origin) + direction @ (np.array([x, y, z]) * np.array(grid.spacing))
    assert volume[z, y, x] == pytest.approx(100 + point @ np.array([1.0, -0.5, 0.25]), abs=0.2)


@pytest.mark.parametrize(
    ("spacing", "euler", "expected"),
    [((1, 1, 5), (0, 0, 0), 2), ((6, 1, 1), (0, 0, 0), 0), ((1, 1, 1), (0, 0, 0), 2), ((1, 1, 1), (90, 0, 0), 1)],
)
def test_axis_across_slices(spacing, euler, expected):
    direction = Rotation.from_euler("xyz", euler, degrees=True).as_matrix().ravel()
    assert through_plane_axis(spacing, direction) == expected


def test_labels_keep_their_values():
    image = CASES["oblique"]
    array = np.zeros(image.GetSize()[::-1], np.int16)
    array[2:4, 5:15, 5:12] = 300
    label = sitk.GetImageFromArray(array)
    label.CopyInformation(image)
    placement = Placement(Grid.of(image), working_grid(Grid.of(image), (1.0, 1.0, None)))
    moved = placement.forward_labels(label)
    assert set(np.unique(moved)) == {0, 300}
    volume = (moved == 300).sum() * np.prod(placement.working.spacing)
    assert volume == pytest.approx((array == 300).sum() * np.prod(image.GetSpacing()), rel=0.1)


def test_affine_there_and_back():
    image = CASES["plain"]
    affine = sitk.AffineTransform(3)
    affine.SetMatrix([1.05, 0.02, 0, -0.02, 0.97, 0, 0, 0, 1.0])
    affine.SetTranslation([3.0, -2.0, 1.0])
    placement = Placement(Grid.of(image), working_grid(Grid.of(image), (None, None, None)), affine)
    back = sitk.GetArrayFromImage(placement.backward(placement.forward(image)))
    wanted = sitk.GetArrayFromImage(image)
    assert back[1:-1, 5:-5, 5:-5] == pytest.approx(wanted[1:-1, 5:-5, 5:-5], abs=0.1)


def test_coarser_grid_does_not_alias():
    rng = np.random.default_rng(0)
    image = sitk.GetImageFromArray(rng.normal(size=(3, 64, 64)).astype(np.float32))
    image.SetSpacing((0.5, 0.5, 5.0))
    placement = Placement(Grid.of(image), working_grid(Grid.of(image), (2.0, 2.0, None)))
    # Averaging 4 x 4 independent voxels leaves a standard deviation of 1/4; sampling every fourth would leave 1.
    assert placement.forward(image).std() < 0.5
