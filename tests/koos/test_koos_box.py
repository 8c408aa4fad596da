"""The box: geometry, orientation, intensities, and augmentation that keeps mask and image together."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from made_koos import tiny
from scipy.spatial.transform import Rotation

from nnunet_ext.errors import InputError
from nnunet_ext.koos.augment import augment
from nnunet_ext.koos.box import Box, binary, cut

CENTRE = np.array([7.0, -11.0, 23.0])
RADIUS = 7.0


def ball(
    spacing: tuple[float, float, float], turn: np.ndarray | None = None, size: tuple[int, int, int] = (40, 44, 30)
) -> tuple[sitk.Image, sitk.Image]:
    """A ball at CENTRE in a linear ramp along the body's x axis, on any grid that holds it."""
    turn = np.eye(3) if turn is None else turn
    image = sitk.Image(size, sitk.sitkFloat32)
    image.SetSpacing(spacing)
    image.SetDirection(turn.ravel().tolist())
    half = np.array(spacing) * (np.array(size) - 1) / 2
    image.SetOrigin((CENTRE - turn @ half + turn @ np.array([3.0, -2.0, 1.0])).tolist())
    k, j, i = np.indices(size[::-1]).reshape(3, -1)
    points = np.array(image.GetOrigin()) + (turn @ (np.array(spacing) * np.stack([i, j, k], 1)).T).T
    inside = (np.linalg.norm(points - CENTRE, axis=1) < RADIUS).reshape(size[::-1])
    volume = sitk.GetImageFromArray((points[:, 0] + 1000).reshape(size[::-1]).astype(np.float32))
    volume.CopyInformation(image)
    return volume, binary(inside, (1,), volume)


def ball_box(volume: sitk.Image, mask: sitk.Image) -> Box:
    box = cut(volume, mask, (12, 24, 24), (2.0, 1.0, 1.0), (0, 100))
    assert box is not None
    return box


def test_the_tumour_lies_in_the_middle_with_its_true_size() -> None:
    box = ball_box(*ball((1.0, 1.0, 1.0)))
    assert box.image.shape == box.mask.shape == (12, 24, 24)
    assert box.mask.sum() * 2.0 == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.05)
    middle = np.argwhere(box.mask).mean(0)
    np.testing.assert_allclose(middle, [5.5, 11.5, 11.5], atol=0.5)
    # The ramp runs along columns only, from -1 to 1.
    assert (box.image.min(), box.image.max()) == (-1, 1)
    assert np.ptp(box.image, axis=(0, 1)).max() < 0.02
    assert (np.diff(box.image[0, 0]) > 0).all()


@pytest.mark.parametrize(
    "turn",
    [
        np.diag([-1.0, -1.0, 1.0]),
        np.diag([1.0, -1.0, -1.0]),
        np.eye(3)[:, [1, 2, 0]],
        np.eye(3)[:, [2, 0, 1]] * np.array([1.0, -1.0, -1.0]),
    ],
)
def test_how_a_scan_is_stored_does_not_matter(turn: np.ndarray) -> None:
    straight = ball_box(*ball((1.0, 1.0, 1.0), size=(40, 40, 40)))
    turned = ball_box(*ball((1.0, 1.0, 1.0), turn, size=(40, 40, 40)))
    overlap = (straight.mask & turned.mask).sum() * 2 / (straight.mask.sum() + turned.mask.sum())
    assert overlap > 0.95
    np.testing.assert_allclose(turned.image, straight.image, atol=0.12)


def test_an_oblique_scan_keeps_its_own_slices() -> None:
    turn = Rotation.from_euler("xyz", [20, -10, 15], degrees=True).as_matrix()
    box = ball_box(*ball((1.0, 1.0, 2.0), turn))
    assert box.mask.sum() * 2.0 == pytest.approx(4 / 3 * np.pi * RADIUS**3, rel=0.08)


def test_slices_lie_along_the_coarsest_axis() -> None:
    # Coronal slices: the coarse axis is the second of the file.
    volume, mask = ball((1.0, 4.0, 1.0), size=(40, 14, 40))
    box = cut(volume, mask, (7, 24, 24), (4.0, 1.0, 1.0), (0, 100))
    assert box is not None
    # In the middle slice the ball is a full disc of 14 mm.
    assert box.mask[3].sum() == pytest.approx(np.pi * RADIUS**2, rel=0.1)


def test_what_is_far_from_the_tumour_does_not_matter() -> None:
    volume, mask = ball((0.5, 0.5, 1.0), size=(96, 96, 48))
    margin = (40, 50, 60)
    around, empty = sitk.ConstantPad(volume, margin, margin, 1e4), sitk.ConstantPad(mask, margin, margin, 0)
    # Coarser than the scan in every direction, so that it is smoothed before it is sampled.
    alone, inside = (cut(*pair, (10, 16, 16), (3.0, 2.0, 2.0), (0, 100)) for pair in ((volume, mask), (around, empty)))
    assert alone is not None
    assert inside is not None
    np.testing.assert_allclose(inside.image, alone.image, atol=1e-4)
    np.testing.assert_array_equal(inside.mask, alone.mask)


def test_a_gain_of_the_scanner_does_not_matter_and_a_flat_scan_does_no_harm() -> None:
    volume, mask = ball((1.0, 1.0, 1.0))
    np.testing.assert_allclose(ball_box(volume * 17.0 - 300.0, mask).image, ball_box(volume, mask).image, atol=1e-3)
    assert np.isfinite(ball_box(volume * 0.0 + 5.0, mask).image).all()


def test_a_tumour_smaller_than_a_voxel_of_the_box_is_kept() -> None:
    volume, _ = ball((1.0, 1.0, 1.0))
    one = np.zeros(volume.GetSize()[::-1], bool)
    one[15, 20, 20] = True
    box = cut(volume, binary(one, (), volume), (8, 8, 8), (4.0, 4.0, 4.0), (0, 100))
    assert box is not None
    assert 1 <= box.mask.sum() <= 8


def test_an_empty_mask_has_no_box_and_sizes_must_agree() -> None:
    volume, _ = ball((1.0, 1.0, 1.0))
    empty = np.zeros(volume.GetSize()[::-1], np.uint8)
    assert cut(volume, binary(empty, (1,), volume), (4, 8, 8), (1.0, 1.0, 1.0), (0, 100)) is None
    assert cut(volume, binary(empty + 2, (1,), volume), (4, 8, 8), (1.0, 1.0, 1.0), (0, 100)) is None
    with pytest.raises(InputError, match="size"):
        binary(empty[1:], (1,), volume)
    with pytest.raises(InputError, match="2 dimensions"):
        cut(sitk.Image(4, 4, sitk.sitkFloat32), sitk.Image(4, 4, sitk.sitkUInt8), (1, 4, 4), (1, 1, 1), (0, 100))


def test_augmentation_moves_image_and_mask_together_and_keeps_the_size() -> None:
    box = ball_box(*ball((1.0, 1.0, 1.0)))
    mask = torch.from_numpy(box.mask)[None].repeat(8, 1, 1, 1)
    # An image that is the mask itself must stay the mask, whatever the motion.
    settings = tiny(gamma=0.0, noise=0.0, shift=0.1, rotation=40.0)
    image, moved = augment(mask.float() * 2 - 1, mask, settings, (2.0, 1.0, 1.0), torch.Generator().manual_seed(0))
    assert ((image > 0) == (moved > 0)).float().mean() > 0.999
    volumes = moved.flatten(1).sum(1).float()
    assert (volumes / box.mask.sum() - 1).abs().max() < 0.1
    centres = torch.stack([torch.nonzero(m).float().mean(0) for m in moved])
    assert (centres.std(0) > 0.3).all()


def test_rotation_is_in_millimetres() -> None:
    # A bar of 20 x 4 mm in voxels of 2 x 1 mm, turned by a quarter: 20 mm along the other axis.
    mask = torch.zeros(1, 1, 20, 40)
    mask[:, :, 9:11, 10:30] = 1
    settings = tiny(gamma=0.0, noise=0.0, shift=0.0, mirror=False, rotation=90.0)
    generator = torch.Generator()
    for seed in range(2000):
        generator.manual_seed(seed)
        if torch.rand(1, 7, generator=generator)[0, 0] > 0.998:
            break
    generator.manual_seed(seed)
    _, turned = augment(mask * 2 - 1, mask, settings, (1.0, 2.0, 1.0), generator)
    rows, columns = (torch.nonzero(turned[0, 0].sum(axis)).numel() for axis in (1, 0))
    assert abs(rows * 2 - 20) <= 2
    assert abs(columns - 4) <= 2


def test_augmentation_depends_on_its_generator_alone() -> None:
    image, mask = torch.rand(3, 4, 8, 8) * 2 - 1, (torch.rand(3, 4, 8, 8) > 0.5).to(torch.uint8)
    first, second, other = (
        augment(image, mask, tiny(), (1.0, 1.0, 1.0), torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2)
    )
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert not torch.equal(first, other)
    assert first.abs().max() <= 1
