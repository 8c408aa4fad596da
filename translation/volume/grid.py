"""The grid on which networks work, and the way there and back.

A working grid has the slices along its last axis, whatever axis they lie on in the file, and a spacing of choice. All
of reorienting, resampling and affine registration is one interpolation in each direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

#: a scan whose coarsest axis is coarser than the next by less than this is taken to be cut axially
ANISOTROPY = 1.2


@dataclass(frozen=True)
class Grid:
    """Voxel centres in space: SimpleITK's size, spacing (mm), origin (mm) and direction (row-major)."""

    size: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """The grid of a 3D image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    def resample(
        self, image: sitk.Image, transform: sitk.Transform | None, interpolator: int, outside: float = 0.0
    ) -> sitk.Image:
        """`image` on this grid; `transform` maps points of this grid to points of the image."""
        return sitk.Resample(
            image,
            self.size,
            transform or sitk.Transform(3, sitk.sitkIdentity),
            interpolator,
            self.origin,
            self.spacing,
            self.direction,
            outside,
            image.GetPixelID(),
        )


@dataclass(frozen=True)
class Placement:
    """Where a scan lies on its working grid.

    Attributes:
        source: the scan's own grid.
        working: the grid that networks see; array axes are (across slices, rows, columns).
        affine: maps points of the working grid to points of the scan; identity without it.
    """

    source: Grid
    working: Grid
    affine: sitk.AffineTransform | None = field(default=None, compare=False)

    @property
    def voxel(self) -> tuple[float, float, float]:
        """Edge lengths of the working grid in mm, along (slices, rows, columns)."""
        x, y, z = self.working.spacing
        return z, y, x

    @property
    def scan_mm3(self) -> float:
        """mm^3 of the scan that a voxel of the working grid stands for: an affine map shrinks or swells it."""
        scale = 1.0 if self.affine is None else abs(np.linalg.det(np.reshape(self.affine.GetMatrix(), (3, 3))))
        return float(np.prod(self.voxel) * scale)

    def forward(self, image: sitk.Image) -> NDArray[np.float32]:
        """Intensities on the working grid, smoothed first where the grid is coarser than the scan."""
        image = _antialias(sitk.Cast(image, sitk.sitkFloat32), self.working)
        # What an affine map leaves outside the scan looks like its background.
        outside = float(np.min(sitk.GetArrayViewFromImage(image)))
        return sitk.GetArrayFromImage(self.working.resample(image, self.affine, sitk.sitkLinear, outside))

    def forward_labels(self, label: sitk.Image, outside: int = 0) -> NDArray[np.int16]:
        """Labels on the working grid, by nearest neighbour."""
        moved = self.working.resample(sitk.Cast(label, sitk.sitkInt16), self.affine, sitk.sitkNearestNeighbor, outside)
        return sitk.GetArrayFromImage(moved)

    def backward(self, volume: NDArray[np.float32]) -> sitk.Image:
        """A volume on the working grid -> a float image whose grid is exactly the scan's own.

        Voxels of the scan up to one working voxel outside the working grid take the nearest value inside, those
        further out the volume's least value. `gate.coverage` tells when labels lie there.
        """
        image = sitk.GetImageFromArray(np.ascontiguousarray(volume, np.float32))
        image.SetSpacing(self.working.spacing)
        image.SetOrigin(self.working.origin)
        image.SetDirection(self.working.direction)
        # One voxel more on each side, so that a centre half a voxel outside is interpolated and not `outside`.
        image = sitk.ZeroFluxNeumannPad(image, (1, 1, 1), (1, 1, 1))
        inverse = self.affine.GetInverse() if self.affine is not None else None
        outside = float(volume.min())
        back = self.source.resample(image, inverse, sitk.sitkLinear, outside)
        # Bitwise the scan's own geometry, not one that went through another image.
        back.SetSpacing(self.source.spacing)
        back.SetOrigin(self.source.origin)
        back.SetDirection(self.source.direction)
        return back


def through_plane_axis(spacing: Sequence[float], direction: Sequence[float]) -> int:
    """The image axis (x 0, y 1, z 2) across slices: the coarsest, or of nearly isotropic scans the most axial one."""
    coarse = int(np.argmax(spacing))
    others = [s for axis, s in enumerate(spacing) if axis != coarse]
    if spacing[coarse] >= ANISOTROPY * max(others):
        return coarse
    return int(np.argmax(np.abs(np.reshape(direction, (3, 3))[2])))


def working_grid(source: Grid, spacing: Sequence[float | None], axis: int | None = None) -> Grid:
    """The grid that covers `source` with its slices last and a spacing of choice, centred on the same point.

    Args:
        source: the scan's grid.
        spacing: mm along both in-plane axes and across slices; None keeps the scan's.
        axis: the axis across slices; found by `through_plane_axis` without it.
    """
    axis = through_plane_axis(source.spacing, source.direction) if axis is None else axis
    order = [a for a in range(3) if a != axis] + [axis]
    directions = np.reshape(source.direction, (3, 3))
    old = np.array(source.spacing)
    centre = np.array(source.origin) + directions @ (old * (np.array(source.size) - 1) / 2)
    new = np.array([old[a] if s is None else s for a, s in zip(order, spacing, strict=True)], float)
    extent = np.array([source.size[a] * old[a] for a in order])
    size = np.maximum(np.round(extent / new), 1).astype(int)
    turned = directions[:, order]
    origin = centre - turned @ (new * (size - 1) / 2)
    return Grid(tuple(size.tolist()), tuple(new.tolist()), tuple(origin.tolist()), tuple(turned.ravel().tolist()))


def _antialias(image: sitk.Image, working: Grid) -> sitk.Image:
    """Smooth each axis that the working grid samples more coarsely, so that fine texture does not alias."""
    own = np.array(image.GetSpacing())
    turn = np.abs(np.reshape(image.GetDirection(), (3, 3)).T @ np.reshape(working.direction, (3, 3)))
    new = np.array([working.spacing[int(np.argmax(row))] for row in turn])
    # A box of width `new` has the variance new^2 / 12; the scan's own voxel already contributes own^2 / 12.
    sigma = np.sqrt(np.maximum(new**2 - own**2, 0) / 12)
    if not (sigma > 0.2 * own).any():
        return image
    return sitk.DiscreteGaussian(image, [float(s**2) for s in sigma], 32, 0.01, True)
