"""The box around a tumour that the network sees, cut from a scan of any orientation and spacing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_ext.errors import InputError

ORIENTATION = "LPS"
#: a scan whose coarsest axis is coarser than the next by less than this is taken to be cut axially
ANISOTROPY = 1.2
#: how far a smoothed voxel sees; ITK's kernel ends where 1 % of its weight is left
KERNEL_SIGMAS = 5
#: bytes per voxel that cutting a box takes beside the scan: turned copies of scan (up to float64) and mask
CUT_BYTES = 16


@dataclass(frozen=True)
class Box:
    """What the network sees: `image` in [-1, 1] and `mask` of 0 and 1, both (slices, rows, columns)."""

    image: NDArray[np.float32]
    mask: NDArray[np.uint8]


def binary(mask: sitk.Image | NDArray, tumour: Collection[int], like: sitk.Image) -> sitk.Image:
    """A label map, or an array of labels in z, y, x order, as a mask of the tumour on the grid of `like`.

    Raises:
        InputError: when the sizes differ.
    """
    values = sitk.GetArrayFromImage(mask) if isinstance(mask, sitk.Image) else np.asarray(mask)
    if values.shape != like.GetSize()[::-1]:
        raise InputError(f"mask: size {values.shape[::-1]}, that of the volume is needed: {like.GetSize()}")
    inside = values if values.dtype == np.bool_ else np.isin(values, list(tumour))
    image = sitk.GetImageFromArray(inside.astype(np.uint8))
    image.CopyInformation(like)
    return image


def cut(
    volume: sitk.Image,
    mask: sitk.Image,
    size: Sequence[int],
    spacing: Sequence[float],
    percentiles: tuple[float, float],
) -> Box | None:
    """Cut the box, centred on the middle of the tumour's extent.

    Scan and mask are turned to LPS, to the nearest axis; the slices are those along the coarsest axis, or along the
    body's axis where no axis is clearly coarsest. Beyond the scan's edge its border goes on.

    Args:
        volume: a 3D scan.
        mask: 1 in the tumour, on the same grid.
        size: voxels along slices, rows, columns.
        spacing: mm along the same axes.
        percentiles: of the box's intensities; they become -1 and 1, what is beyond is clipped.

    Returns:
        the box; None when the mask is empty.
    """
    if volume.GetDimension() != 3:
        raise InputError(f"volume: {volume.GetDimension()} dimensions, a 3D scan is needed")
    volume, mask = sitk.DICOMOrient(volume, ORIENTATION), sitk.DICOMOrient(mask, ORIENTATION)
    extents = _extents(sitk.GetArrayViewFromImage(mask) > 0)
    if extents is None:
        return None
    axes = _axes(volume.GetSpacing())
    directions = np.reshape(volume.GetDirection(), (3, 3))[:, axes]
    centre = np.array(volume.TransformContinuousIndexToPhysicalPoint(extents.mean(1).tolist()))
    extent, step = np.array(size[::-1]), np.array(spacing[::-1], float)
    half = step * (extent - 1) / 2
    old = np.array(volume.GetSpacing())[axes]
    sigma = np.where(step > old, np.sqrt(np.maximum(step**2 - old**2, 0) / 12), 0)
    # Only what the box can see is smoothed: a large scan would otherwise be held several times over as float.
    reach = np.empty(3)
    reach[axes] = (half + KERNEL_SIGMAS * sigma) / old + 2
    volume, mask = (_crop(image, extents.mean(1), reach) for image in (volume, mask))

    def place(image: sitk.Image, interpolator: int, beyond: bool) -> NDArray:
        resampler = sitk.ResampleImageFilter()
        resampler.SetSize(extent.tolist())
        resampler.SetOutputSpacing(step.tolist())
        resampler.SetOutputOrigin((centre - directions @ half).tolist())
        resampler.SetOutputDirection(directions.ravel().tolist())
        resampler.SetInterpolator(interpolator)
        resampler.SetUseNearestNeighborExtrapolator(beyond)
        return sitk.GetArrayFromImage(resampler.Execute(_smooth(image, sigma, axes)))

    image = place(volume, sitk.sitkLinear, True)
    # Tumours may be smaller than a coarse voxel, so the mask is weighed and not taken at one point; by nearest
    # neighbour, because halves between two voxels would make it grow or shrink.
    weight = place(mask, sitk.sitkNearestNeighbor, False)
    held = (weight >= min(0.5, float(weight.max()))) & (weight > 0)
    low, high = np.percentile(image, percentiles)
    scaled = np.clip((image - low) / ((high - low) or 1.0) * 2 - 1, -1, 1).astype(np.float32)
    return Box(scaled, held.astype(np.uint8))


def _axes(spacing: Sequence[float]) -> list[int]:
    """The image axes (x 0, y 1, z 2) of columns, rows and slices."""
    coarse = int(np.argmax(spacing))
    others = [s for axis, s in enumerate(spacing) if axis != coarse]
    through = coarse if spacing[coarse] >= ANISOTROPY * max(others) else 2
    return [axis for axis in range(3) if axis != through] + [through]


def _extents(inside: NDArray[np.bool_]) -> NDArray | None:
    """First and last index of what is inside (z, y, x), as (axis x y z, 2); None where nothing is."""
    held = [np.flatnonzero(inside.any(tuple(a for a in range(3) if a != axis))) for axis in (2, 1, 0)]
    return np.array([(h[0], h[-1]) for h in held]) if len(held[0]) else None


def _crop(image: sitk.Image, centre: NDArray, reach: NDArray) -> sitk.Image:
    """The part of an image within `reach` voxels of `centre` along each axis."""
    last = np.array(image.GetSize()) - 1
    low = np.clip(np.floor(centre - reach), 0, last).astype(int)
    high = np.clip(np.ceil(centre + reach), 0, last).astype(int)
    return sitk.RegionOfInterest(image, (high - low + 1).tolist(), low.tolist())


def _smooth(image: sitk.Image, sigma: NDArray, axes: list[int]) -> sitk.Image:
    """As float, smoothed along the axes that become coarser, by what a voxel of the new size averages over."""
    image = sitk.Cast(image, sitk.sitkFloat32)
    if not sigma.any():
        return image
    variance = np.zeros(3)
    variance[axes] = sigma**2
    # A variance of 0 leaves an axis alone; ITK takes variances in mm^2.
    return sitk.DiscreteGaussian(image, variance.tolist())
