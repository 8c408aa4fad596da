"""From a start to a registration: local correlation inside the organ's neighbourhood, climbed by Adam.

The loss is 1 - LNCC (correlation in square in-plane windows, averaged over the mask) plus penalties on leaving the
start. With twelve free parameters and thick slices correlation alone drifts (measured: mean Dice falls), so the affine
step is penalised, along the stack axis most; the displacement lives on coarse control points, pays for its gradient
and fades to 0 at the edge of the region, beyond which the affine map holds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nnunet_ext.registration.frames import STACK_RATIO, Matrix, affine_transform, resample_to
from nnunet_ext.registration.settings import RegistrationSettings

# Added to the product of variances (intensities in [0, 1]): below it a window counts as flat.
FLAT = 2e-3
# Penalties per squared unit at stiffness 1: strain (dimensionless), strain that involves the axis of a stack, shift in
# organ diameters, and the displacement's gradient (mm/mm).
STRAIN, STACK_STRAIN, SHIFT, BEND = 0.5, 8.0, 0.2, 1.0
FADE = 4


@dataclass(frozen=True)
class Field:
    """A displacement in mm, (z, y, x, 3), on the grid of `region` (frame coordinates)."""

    displacement: NDArray[np.float64]
    region: sitk.Image


@dataclass(frozen=True)
class Refined:
    """The map point -> matrix @ (point + displacement), its mean LNCC, and the region it was found in."""

    matrix: Matrix
    field: Field | None
    similarity: float


class _Loss:
    """1 - LNCC between a fixed region and a moving volume sampled at points of the moving frame."""

    def __init__(self, fixed: sitk.Image, mask: sitk.Image, moving: sitk.Image, window: int) -> None:
        self.window = window
        self.fixed = torch.from_numpy(sitk.GetArrayFromImage(fixed))[None, None]
        self.weight = torch.from_numpy(sitk.GetArrayFromImage(mask))[None, None]
        self.moving = torch.from_numpy(sitk.GetArrayFromImage(moving))[None, None]
        half = torch.tensor(np.array(moving.GetSize()) * moving.GetSpacing() / 2, dtype=torch.float32)
        self.half = half
        self.middle = torch.tensor(np.array(moving.GetOrigin()) - np.array(moving.GetSpacing()) / 2).float() + half
        self.fixed_mean = self._blur(self.fixed)
        self.fixed_variance = self._blur(self.fixed**2) - self.fixed_mean**2

    def _blur(self, values: Tensor) -> Tensor:
        pad = self.window // 2
        return F.avg_pool3d(values, (1, self.window, self.window), 1, (0, pad, pad), count_include_pad=False)

    def __call__(self, points: Tensor) -> Tensor:
        """`points`: (z, y, x, 3) mm in the moving frame."""
        unit = ((points - self.middle) / self.half)[None]
        warped = F.grid_sample(self.moving, unit, padding_mode="border", align_corners=False)
        mean = self._blur(warped)
        variance = (self._blur(warped**2) - mean**2).clamp_min(0)
        covariance = self._blur(warped * self.fixed) - mean * self.fixed_mean
        lncc = covariance / (self.fixed_variance.clamp_min(0) * variance + FLAT**2).sqrt()
        return 1 - (lncc * self.weight).sum() / self.weight.sum().clamp_min(1)


def refine(
    fixed: sitk.Image, mask: sitk.Image, moving: sitk.Image, start: Matrix, settings: RegistrationSettings
) -> Refined:
    """Refine `start` inside `mask`.

    Args:
        fixed, moving: volumes in their frames, intensities in [0, 1].
        mask: float image on the fixed grid, 1 in the organ's neighbourhood.
        start: 4x4, fixed frame -> moving frame.
        settings: `transform` says whether a displacement follows the affine step.

    Raises:
        ValueError: when the mask is empty.
    """
    region, inside, diameter = _region(fixed, mask, settings)
    pixel = diameter / settings.refine_size * float(np.cbrt(abs(np.linalg.det(start[:3, :3]))))
    target = resample_to(moving, (pixel, pixel, pixel))
    loss = _Loss(region, inside, target, settings.window)
    points = _points(region)
    stack = region.GetSpacing()[2] >= STACK_RATIO * region.GetSpacing()[0]
    with torch.enable_grad():
        matrix, value = _affine(loss, points, start, diameter, stack, settings)
        if settings.transform == "affine":
            return Refined(matrix, None, 1 - value)
        edge = _fade(region, fixed)
        displacement, value = _displace(loss, points, matrix, edge, np.array(region.GetSpacing()), settings)
    return Refined(matrix, Field(displacement, region), 1 - value)


def _region(
    fixed: sitk.Image, mask: sitk.Image, settings: RegistrationSettings
) -> tuple[sitk.Image, sitk.Image, float]:
    """The mask's surroundings at working resolution: image, mask, and the organ's in-plane diameter in mm."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(mask > 0.5)
    if not shape.HasLabel(1):
        raise ValueError("the labelled organ falls outside the volume")
    box, spacing = shape.GetBoundingBox(1), fixed.GetSpacing()
    diameter = float(np.hypot(box[3] * spacing[0], box[4] * spacing[1]))
    pixel = diameter / settings.refine_size
    image, near = (resample_to(i, (pixel, pixel, pixel)) for i in (fixed, mask))
    first = np.array(image.TransformPhysicalPointToIndex(fixed.TransformIndexToPhysicalPoint(box[:3])))
    last = np.array(
        image.TransformPhysicalPointToIndex(
            fixed.TransformIndexToPhysicalPoint([box[i] + box[i + 3] - 1 for i in range(3)])
        )
    )
    first = np.maximum(first - FADE, 0)
    last = np.minimum(last + FADE, np.array(image.GetSize()) - 1)
    size = (last - first + 1).tolist()
    return (
        sitk.RegionOfInterest(image, size, first.tolist()),
        sitk.RegionOfInterest(near, size, first.tolist()),
        diameter,
    )


def _points(region: sitk.Image) -> Tensor:
    """Homogeneous frame coordinates of the region's voxels, (z, y, x, 4), mm."""
    axes = [
        o + s * np.arange(n) for o, s, n in zip(region.GetOrigin(), region.GetSpacing(), region.GetSize(), strict=True)
    ]
    z, y, x = np.meshgrid(*reversed(axes), indexing="ij")
    return torch.from_numpy(np.stack([x, y, z, np.ones_like(x)], -1)).float()


def _affine(
    loss: _Loss, points: Tensor, start: Matrix, diameter: float, stack: bool, settings: RegistrationSettings
) -> tuple[Matrix, float]:
    base = torch.from_numpy(start).float()
    centre = (points * loss.weight[0, 0, ..., None]).sum((0, 1, 2)) / loss.weight.sum().clamp_min(1)
    centre = centre[:3]
    strain = torch.zeros(3, 3, requires_grad=True)
    shift = torch.zeros(3, requires_grad=True)
    price = torch.full((3, 3), STRAIN)
    if stack:
        price[2], price[:, 2] = STACK_STRAIN, STACK_STRAIN

    def matrix() -> Tensor:
        change = torch.matrix_exp(strain)
        top = torch.cat([change, (centre + shift * diameter - change @ centre)[:, None]], 1)
        return base @ torch.cat([top, torch.tensor([[0.0, 0.0, 0.0, 1.0]])])

    optimiser = torch.optim.Adam([strain, shift], lr=0.01)
    for _ in range(settings.affine_iterations):
        # Turning is free, a change of shape is not: only the symmetric part costs, save along the axis of a stack.
        shape = torch.where(price == STACK_STRAIN, strain, (strain + strain.T) / 2)
        cost = loss((points @ matrix().T)[..., :3])
        cost = cost + settings.affine_stiffness * ((price * shape**2).sum() + SHIFT * (shift**2).sum())
        optimiser.zero_grad()
        cost.backward()
        optimiser.step()
    with torch.no_grad():
        final = matrix()
        value = float(loss((points @ final.T)[..., :3]))
    return final.double().numpy(), value


def _fade(region: sitk.Image, whole: sitk.Image) -> Tensor:
    """1 inside, falling to 0 at those faces of the region that are not faces of the whole volume. (z, y, x, 1)."""
    ramps = []
    for axis in range(3):
        n, spacing = region.GetSize()[axis], region.GetSpacing()[axis]
        ramp = np.ones(n)
        rise = np.minimum(np.arange(n) / FADE, 1)
        low = region.GetOrigin()[axis] - spacing / 2
        low_whole = whole.GetOrigin()[axis] - whole.GetSpacing()[axis] / 2
        if low - low_whole > spacing / 2:
            ramp *= rise
        if low_whole + whole.GetSize()[axis] * whole.GetSpacing()[axis] - (low + n * spacing) > spacing / 2:
            ramp *= rise[::-1]
        ramps.append(ramp)
    x, y, z = ramps
    return torch.from_numpy(z[:, None, None] * y[:, None] * x)[..., None].float()


def _displace(
    loss: _Loss,
    points: Tensor,
    matrix: Matrix,
    edge: Tensor,
    spacing: NDArray[np.float64],
    settings: RegistrationSettings,
) -> tuple[NDArray[np.float64], float]:
    affine = torch.from_numpy(matrix).float()
    size = points.shape[:3]
    coarse = [max(2, n // settings.control_spacing) if k else n for k, n in enumerate(size)]
    control = torch.zeros(1, 3, *coarse, requires_grad=True)
    step = torch.from_numpy(spacing).float()
    still = torch.zeros_like(points[..., :1])

    def displacement() -> Tensor:
        dense = F.interpolate(control, size, mode="trilinear", align_corners=True)[0].permute(1, 2, 3, 0)
        return dense * edge * step[0]

    def cost_of(moved: Tensor) -> Tensor:
        return loss(((points + torch.cat([moved, still], -1)) @ affine.T)[..., :3])

    optimiser = torch.optim.Adam([control], lr=0.15)
    for _ in range(settings.deformable_iterations):
        moved = displacement()
        bend = sum(((moved.diff(dim=axis) / step[2 - axis]) ** 2).mean() for axis in range(3) if moved.shape[axis] > 1)
        cost = cost_of(moved) + settings.deformable_stiffness * BEND * bend
        optimiser.zero_grad()
        cost.backward()
        optimiser.step()
    with torch.no_grad():
        moved = displacement()
        value = float(cost_of(moved))
    return moved.double().numpy(), value


def warp_mask(mask: sitk.Image, like: sitk.Image, matrix: Matrix) -> sitk.Image:
    """`mask` (moving frame) on the grid of `like` (fixed frame) through the 4x4 fixed -> moving map."""
    return sitk.Resample(mask, like, affine_transform(matrix), sitk.sitkLinear)
