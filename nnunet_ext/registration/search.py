"""Where to start: the labelled organ as a template, slid over the other volume at many rotations and sizes.

The whole images say little (stacks differ in field of view), so only the organ and a thin margin around it are
compared. For every rotation and scale the normalised cross-correlation inside that mask is known for all in-plane
shifts at once by FFT (masked NCC: Padfield, "Masked object registration in the Fourier domain", IEEE TIP 2012),
slice by slice, then averaged over slices by their share of the mask: brightness differs between the slices of a stack.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import fft

from nnunet_ext.registration.frames import Matrix, affine_transform, resample_to, scaled
from nnunet_ext.registration.settings import RegistrationSettings

# An organ that fills this share of the slices was what the stack was planned on: then slice counts set the z scale.
PLANNED_ON_ORGAN = 0.8
# Shifts that push more of the template out of the image than this are not considered.
MIN_INSIDE = 0.85
# Without slice counts to go by: voxels across the smallest organ tried, and shifts tried along the stack.
UNPLANNED_VOXELS, UNPLANNED_SHIFTS = 20, 7
# Variance (of intensities in [0, 1], times voxels) below which a slice counts as flat.
FLAT = 1e-2


@dataclass(frozen=True)
class Start:
    """One candidate: mean masked NCC less the central prior, and the 4x4 map from fixed frame to moving frame."""

    score: float
    matrix: Matrix


@dataclass(frozen=True)
class Template:
    """The labelled side of a search.

    Attributes:
        image: moving image in its frame, intensities in [0, 1].
        mask: float image, 1 in the organ's neighbourhood.
        centre: mm in the frame; the point that the shifts place.
        extent: in-plane diameter of the neighbourhood, mm.
        planned: whether slice counts set the scale along the stack.
    """

    image: sitk.Image
    mask: sitk.Image
    centre: NDArray[np.float64]
    extent: float
    planned: bool


def neighbourhood(mask: sitk.Image, margin: float) -> sitk.Image:
    """The organ grown by `margin` (share of its in-plane extent) within its slices; float32, in [0, 1]."""
    box = _box(mask)
    spacing = mask.GetSpacing()
    grow = margin * max(box[3] * spacing[0], box[4] * spacing[1])
    radius = [round(grow / spacing[0]), round(grow / spacing[1]), 0]
    return sitk.Cast(sitk.BinaryDilate(mask, radius), sitk.sitkFloat32)


def template(image: sitk.Image, organ: sitk.Image, settings: RegistrationSettings) -> Template:
    """Prepare the labelled volume. `image` and the 0/1 mask `organ` share a grid in the moving frame."""
    near = neighbourhood(organ, settings.margin)
    box, size, spacing = _box(near > 0.5), image.GetSize(), np.array(image.GetSpacing())
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(organ)
    centre = np.array(shape.GetCentroid(1))
    planned = _box(organ)[5] >= PLANNED_ON_ORGAN * size[2]
    if planned:
        centre[2] = 0.0
    extent = float(np.hypot(box[3] * spacing[0], box[4] * spacing[1]))
    return Template(scaled(image), near, centre, extent, planned)


def search(fixed: sitk.Image, moving: Template, settings: RegistrationSettings) -> list[Start]:
    """The `settings.candidates` best starts, best first, distinct in place or rotation.

    Args:
        fixed: the volume to search in, in its frame.
        moving: the labelled organ, in a frame aligned with it.
    """
    size = np.array(fixed.GetSize()) * fixed.GetSpacing()
    pixel = float(max(size[:2].max() / settings.search_size, *fixed.GetSpacing()[:2]))
    if not moving.planned:  # shifts along the stack multiply the work, and a small volume needs no more
        pixel = max(pixel, moving.extent * min(settings.scales) / UNPLANNED_VOXELS)
    grid = scaled(resample_to(fixed, (pixel, pixel, pixel)))
    coarse = resample_to(moving.image, (pixel, pixel, pixel))
    values = sitk.GetArrayFromImage(grid)
    shifts, z_scale = _stack(grid, moving)
    pieces = [np.ones_like(values), values, values**2]
    prior = settings.central_prior * _off_centre(values.shape[1:])

    spectra: dict[tuple[int, int], list[NDArray]] = {}
    poses, maps = [], []
    for scale in settings.scales:
        half = int(np.ceil(moving.extent * scale / 2 / min(grid.GetSpacing()[:2])))
        shape = tuple(fft.next_fast_len(n + 2 * half + 1, real=True) for n in values.shape[1:])
        if shape not in spectra:
            spectra[shape] = [fft.rfft2(piece, shape) for piece in pieces]
        for rotation in rotations(settings):
            pose = _pose(np.deg2rad(rotation), scale, z_scale)
            patch, mask = _patch(coarse, moving, grid, half, pose)
            turned = [np.conj(fft.rfft2(piece, shape)) for piece in (mask, patch * mask, patch**2 * mask)]
            needed = MIN_INSIDE * max(float(mask.sum()), 1.0)
            for shift in shifts:
                ncc = _correlation(spectra[shape], turned, shape, shift, needed)
                centred = np.roll(ncc, (half, half), (0, 1))[: values.shape[1], : values.shape[2]]
                maps.append(centred.astype(np.float32) - prior)
                poses.append((rotation, shift, pose))
    return _peaks(np.stack(maps), poses, grid, moving, settings)


def rotations(settings: RegistrationSettings) -> NDArray[np.floating]:
    """Degrees tried, symmetric around 0."""
    steps = int(settings.max_rotation // settings.rotation_step)
    return np.arange(-steps, steps + 1) * settings.rotation_step


def _box(mask: sitk.Image) -> tuple[int, ...]:
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(sitk.Cast(mask, sitk.sitkUInt8))
    return shape.GetBoundingBox(1)


def _stack(grid: sitk.Image, moving: Template) -> tuple[range, float]:
    """Slice shifts to try and the scale along the stack."""
    slices = grid.GetSize()[2]
    if moving.planned:
        extents = [i.GetSize()[2] * i.GetSpacing()[2] for i in (grid, moving.image)]
        return range(1), extents[0] / extents[1]
    reach = slices // 4
    return range(-reach, reach + 1, max(1, 2 * reach // (UNPLANNED_SHIFTS - 1))), 1.0


def _off_centre(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Squared distance from the centre of the field of view, each axis in shares of it. Shape (y, x)."""
    y, x = ((np.arange(n) - (n - 1) / 2) / n for n in shape)
    return (y[:, None] ** 2 + x[None] ** 2).astype(np.float32)


def _pose(angle: float, scale: float, z_scale: float) -> Matrix:
    """Linear part, fixed frame -> moving frame: an organ `scale` times as large, turned by `angle`."""
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    return turn @ np.diag([1 / scale, 1 / scale, 1 / z_scale])


def _matrix(pose: Matrix, point: NDArray[np.float64], centre: NDArray[np.float64]) -> Matrix:
    """4x4 with linear part `pose` that takes `point` to `centre`."""
    matrix = np.eye(4)
    matrix[:3, :3] = pose
    matrix[:3, 3] = centre - pose @ point
    return matrix


def _patch(coarse: sitk.Image, moving: Template, grid: sitk.Image, half: int, pose: Matrix) -> tuple[NDArray, NDArray]:
    """The turned and scaled template and its mask, (z, 2*half+1, 2*half+1), all of the grid's slices."""
    side, spacing, slices = 2 * half + 1, np.array(grid.GetSpacing()), grid.GetSize()[2]
    like = sitk.Image([side, side, slices], sitk.sitkFloat32)
    like.SetSpacing(spacing.tolist())
    like.SetOrigin((-(np.array([side, side, slices]) - 1) / 2 * spacing).tolist())
    transform = affine_transform(_matrix(pose, np.zeros(3), moving.centre))
    patch, mask = (
        sitk.GetArrayFromImage(sitk.Resample(image, like, transform, sitk.sitkLinear))
        for image in (coarse, moving.mask)
    )
    return patch, (mask > 0.5).astype(np.float32)


def _correlation(
    image: list[NDArray], patch: list[NDArray], shape: tuple[int, ...], shift: int, needed: float
) -> NDArray[np.floating]:
    """Mean masked NCC for every position of the template's corner, (y, x); -1 where too little of it is inside.

    Args:
        image, patch: spectra (z, ., .) of mask, values and squared values; the patch's are conjugated.
        shape: of the plane that the spectra were taken on.
        shift: slices by which the patch moves.
        needed: voxels of the patch's mask that must lie inside the image.
    """
    slices = len(image[0])
    ones, first, second = (spectrum[max(0, shift) : slices + min(0, shift)] for spectrum in image)
    m, t, t2 = (spectrum[max(0, -shift) : slices - max(0, shift)] for spectrum in patch)
    n, f_sum, f2_sum, t_sum, t2_sum, product = (
        fft.irfft2(a * b, shape) for a, b in ((ones, m), (first, m), (second, m), (ones, t), (ones, t2), (first, t))
    )
    count = np.maximum(n, 1)
    variance = np.maximum(f2_sum - f_sum**2 / count, 0) * np.maximum(t2_sum - t_sum**2 / count, 0)
    ncc = (product - f_sum * t_sum / count) / np.sqrt(variance + FLAT)
    n = np.where(n > 0.5, n, 0)
    total = n.sum(0)
    return np.where(total >= needed, (ncc * n).sum(0) / np.maximum(total, 1), -1.0)


def _peaks(
    maps: NDArray[np.float32],
    poses: list[tuple[float, int, Matrix]],
    grid: sitk.Image,
    moving: Template,
    settings: RegistrationSettings,
) -> list[Start]:
    """Greedy peaks; around each, shifts nearby at a similar rotation are struck out."""
    turns = np.array([rotation for rotation, _, _ in poses])
    y, x = np.mgrid[: maps.shape[1], : maps.shape[2]]
    spacing = grid.GetSpacing()
    found: list[Start] = []
    for _ in range(settings.candidates):
        index, row, column = np.unravel_index(maps.argmax(), maps.shape)
        score = float(maps[index, row, column])
        if found and score <= -1:
            break
        rotation, shift, pose = poses[index]
        middle = (grid.GetSize()[2] - 1) / 2
        point = np.array(grid.TransformContinuousIndexToPhysicalPoint([float(column), float(row), middle + shift]))
        found.append(Start(score, _matrix(pose, point, moving.centre)))
        apart = np.hypot((y - row) * spacing[1], (x - column) * spacing[0])
        near = apart < moving.extent / 8
        similar = np.abs(turns - rotation) < 40
        maps[np.ix_(np.flatnonzero(similar), np.flatnonzero(near.any(1)), np.flatnonzero(near.any(0)))] = -2
    return found
