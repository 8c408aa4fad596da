from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_ext.errors import InputError
from translation.volume.atlas import register_affine


def blobs(modality):
    z, y, x = np.mgrid[:16, :40, :40].astype(float)
    body = np.exp(-(((x - 20) / 12) ** 2 + ((y - 18) / 9) ** 2 + ((z - 8) / 5) ** 2))
    spot = np.exp(-(((x - 26) / 4) ** 2 + ((y - 22) / 4) ** 2 + ((z - 9) / 3) ** 2))
    array = 100 * body + (80 if modality == "a" else -90) * spot
    image = sitk.GetImageFromArray(array.astype(np.float32))
    image.SetSpacing((2.0, 2.0, 4.0))
    return image


def displaced(image, shift):
    moved = sitk.TranslationTransform(3, [-s for s in shift])
    return sitk.Resample(image, image, moved, sitk.sitkLinear, 0.0)


@pytest.mark.parametrize(("modality", "same"), [("a", True), ("b", False)])
def test_finds_a_displacement(modality, same):
    shift = (6.0, -4.0, 4.0)
    found = register_affine(displaced(blobs(modality), shift), blobs("a"), same_modality=same)
    centre = np.array([40.0, 36.0, 32.0])
    # Points of the atlas map to points of the scan, where the same anatomy lies `shift` further.
    assert np.array(found.TransformPoint(centre)) - centre == pytest.approx(shift, abs=1.5)


def test_is_repeatable():
    scan = displaced(blobs("b"), (4.0, 2.0, 0.0))
    one, two = (register_affine(scan, blobs("a"), same_modality=False) for _ in range(2))
    assert one.GetParameters() == two.GetParameters()


def test_scan_without_overlap_is_the_users_mistake():
    flat = sitk.Image((8, 8, 8), sitk.sitkFloat32)
    with pytest.raises(InputError, match="atlas"):
        register_affine(flat, flat, same_modality=False)
