"""Volumes in a frame of their own grid, so that oblique, flipped and differently planned stacks start aligned.

Short-axis stacks lie obliquely in the patient, each at its own angle, but are planned on the organ: their grids
correspond better than their patient coordinates. A `Frame` re-orders and flips a volume's axes (stack axis last) and
puts its centre at 0, with axis-aligned millimetres; `to_patient` leads back. Matrices here are homogeneous 4x4 arrays
in mm acting on column points (x, y, z, 1).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

Matrix = NDArray[np.floating]

# From this ratio of slice to pixel spacing on, a volume is a stack whose slice axis must meet the other's slice axis.
STACK_RATIO = 2.0


@dataclass(frozen=True)
class Frame:
    """A volume's own axis-aligned frame.

    Attributes:
        axes: image axis behind each frame axis; the stack axis comes last.
        flips: whether that axis runs backwards.
        to_patient: 4x4, frame mm -> patient mm (LPS).
        stack: whether the volume is one of thick slices.
    """

    axes: tuple[int, ...]
    flips: tuple[bool, ...]
    to_patient: Matrix
    stack: bool

    @classmethod
    def of(cls, image: sitk.Image, like: Frame | None = None) -> Frame:
        """The frame of `image` whose axes are nearest to those of `like`, or to the patient's without it.

        Two stacks meet at their slice axes, however far they are turned.
        """
        direction = np.array(image.GetDirection()).reshape(3, 3)
        target = np.eye(3) if like is None else like.to_patient[:3, :3]
        spacing = np.array(image.GetSpacing())
        stack = bool(spacing.max() >= STACK_RATIO * np.median(spacing))
        last = int(np.argmax(spacing)) if stack and (like is None or like.stack) else None
        best = -np.inf
        chosen: tuple[tuple[int, ...], tuple[int, ...], Matrix] | None = None
        for axes in permutations(range(3)):
            if last is not None and axes[2] != last:
                continue
            for signs in product((1, -1), repeat=3):
                basis: Matrix = direction[:, axes] * signs
                nearness = float(np.trace(target.T @ basis))
                if np.linalg.det(basis) > 0 and nearness > best:
                    best, chosen = nearness, (axes, signs, basis)
        assert chosen is not None  # every orthonormal direction has a right-handed re-ordering
        axes, signs, basis = chosen
        to_patient = np.eye(4)
        to_patient[:3, :3] = basis
        to_patient[:3, 3] = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
        return cls(axes, tuple(s < 0 for s in signs), to_patient, stack)

    def view(self, image: sitk.Image) -> sitk.Image:
        """`image` (on the grid that this frame was made of) with identity direction and its centre at 0."""
        turned = sitk.Flip(sitk.PermuteAxes(image, self.axes), self.flips)
        size, spacing = np.array(turned.GetSize()), np.array(turned.GetSpacing())
        turned.SetDirection(np.eye(3).ravel().tolist())
        turned.SetOrigin((-(size - 1) / 2 * spacing).tolist())
        return turned


def resample_to(image: sitk.Image, spacing: tuple[float, float, float]) -> sitk.Image:
    """`image` at about `spacing` mm over the same extent, smoothed against aliasing; no axis is made finer."""
    old, size = np.array(image.GetSpacing()), np.array(image.GetSize())
    new_size = np.maximum(1, np.round(size * old / np.maximum(spacing, old))).astype(int)
    new = size * old / new_size
    if (new_size == size).all():
        return image
    # Half a new voxel (FWHM) of blur; an axis that keeps its voxels is left alone.
    variance = [float((0.42 * n) ** 2) if n > o * 1.01 else 0.0 for n, o in zip(new, old, strict=True)]
    smooth = sitk.DiscreteGaussian(image, variance)
    origin = np.array(image.GetOrigin()) + (new - old) / 2
    return sitk.Resample(
        smooth,
        new_size.tolist(),
        sitk.Transform(),
        sitk.sitkLinear,
        origin.tolist(),
        new.tolist(),
        image.GetDirection(),
    )


def affine_transform(matrix: Matrix) -> sitk.AffineTransform:
    """SimpleITK's transform of a 4x4 matrix."""
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(matrix[:3, :3].ravel().tolist())
    transform.SetTranslation(matrix[:3, 3].tolist())
    return transform


def scaled(image: sitk.Image) -> sitk.Image:
    """Float32 with the 1st and 99th percentile at 0 and 1, clipped."""
    values = sitk.GetArrayFromImage(image).astype(np.float32)
    low, high = np.percentile(values, (1, 99))
    out = sitk.GetImageFromArray(np.clip((values - low) / max(high - low, 1e-6), 0, 1).astype(np.float32))
    out.CopyInformation(image)
    return out
