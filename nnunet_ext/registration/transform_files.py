"""Transforms on disk, readable by SimpleITK alone.

`NAME.tfm` is the affine map. Where there is a displacement, `NAME.nii.gz` is a vector image in mm: a point is first
displaced, then mapped by the matrix; outside the image the displacement is 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunet_ext.files import atomic_path


def write_transform(transform: sitk.Transform, stem: Path) -> None:
    """Write an affine transform, or a composite of an affine transform and a displacement applied before it."""
    affine, displacement = _parts(transform)
    if displacement is not None:
        with atomic_path(stem.with_name(f"{stem.name}.nii.gz")) as partial:
            sitk.WriteImage(sitk.Cast(displacement, sitk.sitkVectorFloat32), str(partial), True)
    with atomic_path(stem.with_name(f"{stem.name}.tfm")) as partial:
        sitk.WriteTransform(affine, str(partial))


def read_transform(stem: Path) -> sitk.Transform:
    """What `write_transform` wrote."""
    affine = sitk.ReadTransform(str(stem.with_name(f"{stem.name}.tfm")))
    displacement = stem.with_name(f"{stem.name}.nii.gz")
    if not displacement.exists():
        return affine
    image = sitk.ReadImage(str(displacement), sitk.sitkVectorFloat64)
    return sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(image)])


def map_points(transform: sitk.Transform, like: sitk.Image) -> np.ndarray:
    """Where the voxels of `like` go: float32 (3, z, y, x), patient mm in the order x, y, z."""
    field = sitk.TransformToDisplacementField(
        transform, sitk.sitkVectorFloat64, like.GetSize(), like.GetOrigin(), like.GetSpacing(), like.GetDirection()
    )
    return np.moveaxis(sitk.GetArrayFromImage(field) + _grid(like), -1, 0).astype(np.float32)


def _grid(like: sitk.Image) -> np.ndarray:
    """(z, y, x, 3): patient coordinates of every voxel."""
    x, y, z = (np.arange(n) * s for n, s in zip(like.GetSize(), like.GetSpacing(), strict=True))
    local = np.stack(np.meshgrid(z, y, x, indexing="ij")[::-1], -1)
    return local @ np.array(like.GetDirection()).reshape(3, 3).T + np.array(like.GetOrigin())


def _parts(transform: sitk.Transform) -> tuple[sitk.Transform, sitk.Image | None]:
    if transform.GetName() != "CompositeTransform":
        return transform, None
    composite = sitk.CompositeTransform(transform)
    affine, displacement = (composite.GetNthTransform(n) for n in range(2))
    return affine, sitk.DisplacementFieldTransform(displacement).GetDisplacementField()
