"""Scans for prediction: reading them with every check that a locked-down container needs, and writing masks back."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.data.images import require_same_grid
from nnunet_ext.data.nifti import NIFTI_ENDINGS, require_complete
from nnunet_ext.errors import InputError, reason
from nnunet_ext.inference.memory import require_room

# Cosines further than this from orthonormal are a sheared grid, not rounding.
ORTHONORMAL_TOLERANCE = 1e-3
ORIENTATION_OF_REORIENTING_READERS = "RAS"


@dataclass(frozen=True)
class Geometry:
    """A scan's grid: size, spacing (mm), origin (mm) and direction cosines, all in x, y, z order."""

    size: tuple[int, ...]
    spacing: tuple[float, ...]
    origin: tuple[float, ...]
    direction: tuple[float, ...]

    @classmethod
    def of(cls, image: sitk.Image) -> Geometry:
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())

    def put(self, image: sitk.Image) -> None:
        image.SetSpacing(self.spacing)
        image.SetOrigin(self.origin)
        image.SetDirection(self.direction)


@dataclass
class Scan:
    """One case: `channels` (C, z, y, x) float32 as the network's reader saw them, and the file's own geometry.

    `grid` is the geometry of `channels`; it differs from `geometry` only where the model was trained on scans that its
    reader turned to one orientation.
    """

    name: str
    channels: np.ndarray
    grid: Geometry
    geometry: Geometry

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm, z, y, x."""
        x, y, z = self.grid.spacing
        return z, y, x


def read_scan(paths: Sequence[Path], reorient: bool = False) -> Scan:
    """Read the channels of one case, one file each.

    Args:
        paths: the files, in the order of the model's channels.
        reorient: turn the scan to RAS first, as nnU-Net's `...WithReorient` readers do.

    Raises:
        InputError: for a file that is missing, unreadable, cut off, not 3D, has several components, zero or
            non-finite spacing, axes that are not at right angles, NaN or infinite voxels (in NIfTI files ITK reads
            these as 0, and so nnU-Net has trained on them), or when the channels lie on different grids.
    """
    images = [_read_channel(path) for path in paths]
    for image, path in zip(images[1:], paths[1:], strict=True):
        require_same_grid(images[0], image, paths[0], path)
    geometry = Geometry.of(images[0])
    if reorient:
        images = [sitk.DICOMOrient(image, ORIENTATION_OF_REORIENTING_READERS) for image in images]
    grid = Geometry.of(images[0])
    channels = np.empty((len(images), *images[0].GetSize()[::-1]), dtype=np.float32)
    for i, path in enumerate(paths):
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinite and is reported below
            channels[i] = sitk.GetArrayViewFromImage(images[i])
        if not np.isfinite(channels[i]).all():
            bad = int(channels[i].size - np.count_nonzero(np.isfinite(channels[i])))
            raise InputError(f"{path}: {bad} voxels are NaN or infinite, finite intensities are needed")
    return Scan(str(paths[0]), channels, grid, geometry)


def mask_image(mask: np.ndarray, scan: Scan) -> sitk.Image:
    """A label map (z, y, x) on `scan.grid` as an image in the scan's own orientation and geometry."""
    image = sitk.GetImageFromArray(mask)
    scan.grid.put(image)
    if scan.grid != scan.geometry:
        code = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(scan.geometry.direction)
        image = sitk.DICOMOrient(image, code)
    # The grid of the input, to the last bit, whatever turning it there and back has rounded.
    scan.geometry.put(image)
    return image


def write_mask(mask: np.ndarray, scan: Scan, path: Path) -> None:
    """Write a label map in the scan's own orientation and geometry; compressed, uint8 (uint16 above 255 labels).

    Args:
        mask: (z, y, x) labels on `scan.grid`.

    Raises:
        OSError: when the file could not be written in full.
    """
    image = mask_image(mask, scan)
    # Some of ITK's writers do not notice a full disk, so the file is read back.
    try:
        sitk.WriteImage(image, str(path), useCompression=True)
        written = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise OSError(f"{path.name} could not be written ({reason(error)})") from None
    if not np.array_equal(sitk.GetArrayViewFromImage(written), sitk.GetArrayViewFromImage(image)):
        raise OSError(f"{path.name} could not be written in full")


def _read_channel(path: Path) -> sitk.Image:
    if not path.is_file():
        raise InputError(f"{path}: no such file, a scan is needed")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: 0 bytes, a scan is needed")
    if path.name.endswith(NIFTI_ENDINGS):
        _check_nifti(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        _check_kind(reader, path)
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(f"{path}: not readable as an image ({reason(error)}), an intact scan is needed") from None
    if not (np.isfinite(image.GetSpacing()).all() and min(image.GetSpacing()) > 0):
        raise InputError(f"{path}: spacing {_times(image.GetSpacing())} mm, positive numbers are needed")
    if not np.isfinite(image.GetOrigin()).all():
        raise InputError(f"{path}: origin {image.GetOrigin()}, finite numbers are needed")
    _check_direction(np.reshape(image.GetDirection(), (3, 3)), path)
    return image


def _check_kind(reader: sitk.ImageFileReader, path: Path) -> None:
    """What the header tells, before its voxels take memory."""
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if len(size) != 3:
        raise InputError(f"{path}: {len(size)}D (size {_times(size)}), a 3D scan is needed")
    if components != 1:
        raise InputError(f"{path}: {components} components per voxel, one is needed (one file per channel)")
    if "complex" in kind or min(size) < 1:
        raise InputError(f"{path}: {_times(size)} voxels of {kind}, real intensities are needed")
    bits = re.search(r"\d+", kind)
    voxel = int(bits[0]) // 8 if bits else 8
    require_room(str(path), size, math.prod(size) * (voxel + np.dtype(np.float32).itemsize))


def _check_direction(direction: np.ndarray, path: Path) -> None:
    if not np.isfinite(direction).all() or abs(np.linalg.det(direction)) < ORTHONORMAL_TOLERANCE:
        raise InputError(f"{path}: singular direction matrix, three axes at right angles are needed")
    if np.abs(direction.T @ direction - np.eye(3)).max() > ORTHONORMAL_TOLERANCE:
        raise InputError(f"{path}: sheared direction matrix, three axes at right angles are needed")


def _check_nifti(path: Path) -> None:
    """What ITK lets pass in a NIfTI file: it fills a cut-off file with zeros, takes 1 mm for a spacing of 0, and
    falls back on the quaternion when the affine is sheared."""
    header = require_complete(path)
    spacing = header["pixdim"][1:4].astype(float)
    if not (np.isfinite(spacing).all() and (np.abs(spacing) > 0).all()):
        raise InputError(f"{path}: spacing {_times(spacing)} mm, positive numbers are needed")
    if header["sform_code"] > 0:
        affine = header.get_sform()[:3, :3]
        lengths = np.linalg.norm(affine, axis=0)
        if not (np.isfinite(lengths).all() and lengths.min() > 0):
            raise InputError(f"{path}: singular direction matrix (sform), three axes at right angles are needed")
        _check_direction(affine / lengths, path)


def _times(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{v:g}" for v in values)
