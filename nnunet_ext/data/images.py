"""Reading scans and label maps, and comparing their grids."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.data.nifti import NIFTI_ENDINGS, require_complete
from nnunet_ext.errors import InputError, reason

# What is looked for in a user's folder, and the part of it that nnU-Net reads with SimpleITK, as everything here does
# (it opens plain .nii with another library that flips axes and keeps NaN).
ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd", ".nrrd")
NNUNET_ENDINGS = (".nii.gz", ".mha", ".nrrd")
# MetaImage keeps spacing, origin and direction in full double precision; NIfTI rounds them to float32.
EXACT_ENDING = ".mha"

GRID_TOLERANCE_VOXELS = 0.01


def ending(path: Path) -> str | None:
    """`.nii.gz`, `.mha`, ... or None for a file that is not a scan."""
    return next((e for e in ENDINGS if path.name.endswith(e) and not path.name.startswith(".")), None)


def stem(path: Path) -> str:
    """The file's name without its scan ending (`a.nii.gz` -> `a`)."""
    return path.name.removesuffix(ending(path) or path.suffix)


def scans(folder: Path) -> dict[str, Path]:
    """The scans that lie directly in a folder, by stem, sorted.

    Raises:
        InputError: for a missing folder, one without scans, or two files of one stem (`a.nii.gz` and `a.mha`).
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, a folder with scans ({', '.join(ENDINGS)}) is needed")
    found = by_stem(sorted(p for p in folder.iterdir() if ending(p) and p.is_file()))
    if not found:
        raise InputError(f"{folder}: holds no scans, files ending in {', '.join(ENDINGS)} are needed")
    return found


def by_stem(paths: Iterable[Path]) -> dict[str, Path]:
    """Paths by stem.

    Raises:
        InputError: when two files have one stem.
    """
    found: dict[str, Path] = {}
    for path in paths:
        other = found.setdefault(stem(path), path)
        if other != path:
            raise InputError(f"{path}: a second file for {stem(path)} beside {other}, exactly one is needed")
    return found


def natural(text: str) -> tuple[tuple[int, str], ...]:
    """Sort key that puts `subject2` before `subject10`."""
    return tuple((int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", text))


def read(path: Path, first_component: bool = False) -> sitk.Image:
    """Read a scan or label map with one value per voxel and 2 or 3 dimensions.

    Args:
        path: the file.
        first_component: take the first of several values per voxel, as a photograph has.

    Raises:
        InputError: when the file is missing, unreadable, empty, 4D or has several components.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file, a scan is needed")
    if path.name.endswith(NIFTI_ENDINGS):
        require_complete(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: not readable as an image ({reason(error)}), an intact scan is needed") from None
    if first_component and image.GetNumberOfComponentsPerPixel() > 1:
        image = sitk.VectorIndexSelectionCast(image, 0)
    if image.GetDimension() not in (2, 3) or image.GetNumberOfComponentsPerPixel() != 1:
        raise InputError(
            f"{path}: {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} values per voxel, "
            "a 2D or 3D scan with one value per voxel is needed (one file per channel)"
        )
    return image


def read_scan(path: Path) -> sitk.Image:
    """`read`, and every intensity is finite (ITK reads NaN in NIfTI files as 0, so nnU-Net does too)."""
    image = read(path)
    # Only floating point can hold NaN or infinity; a sum would miss what cancels out.
    values = sitk.GetArrayViewFromImage(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(f"{path}: {np.count_nonzero(~np.isfinite(values))} voxels are NaN or infinite, none may be")
    return image


def read_label(path: Path, values: Collection[int]) -> sitk.Image:
    """`read`, and every value is one of `values`.

    Raises:
        InputError: for a value that is not an integer or not declared.
    """
    label = read(path)
    found = np.unique(sitk.GetArrayViewFromImage(label))
    wrong = [v for v in found.tolist() if v not in values]
    if wrong:
        shown = ", ".join(f"{v:g}" for v in wrong[:5]) + (", ..." if len(wrong) > 5 else "")
        raise InputError(f"{path}: holds the value {shown}, only the declared {sorted(values)} are allowed")
    return label


def require_same_grid(image: sitk.Image, other: sitk.Image, image_path: Path, other_path: Path) -> None:
    """Both grids have one size, and no corner of one lies further than 0.01 voxels from the other's.

    The tolerance forgives the rounding of file formats and no shift that anyone could see.

    Raises:
        InputError: naming both files and what differs.
    """
    if image.GetSize() != other.GetSize():
        raise InputError(f"{other_path}: size {other.GetSize()}, the size of {image_path} is needed: {image.GetSize()}")
    size = np.array(image.GetSize()) - 1
    for corner in np.ndindex(*([2] * len(size))):
        index = [float(i) for i in size * np.array(corner)]
        point = other.TransformContinuousIndexToPhysicalPoint(index)
        off = np.abs(np.array(image.TransformPhysicalPointToContinuousIndex(point)) - index).max()
        if off > GRID_TOLERANCE_VOXELS:
            raise InputError(f"{other_path}: {_geometry(other)}, that of {image_path} is needed: {_geometry(image)}")


def _geometry(image: sitk.Image) -> str:
    parts = (
        ("spacing", image.GetSpacing()),
        ("origin", image.GetOrigin()),
        ("direction", image.GetDirection()),
    )
    return " ".join(f"{name} ({', '.join(f'{v:.6g}' for v in values)})" for name, values in parts)
