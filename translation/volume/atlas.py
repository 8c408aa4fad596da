"""Affine registration of a scan to an atlas scan."""

from __future__ import annotations

import SimpleITK as sitk

from nnunet_ext.errors import InputError, reason


def register_affine(scan: sitk.Image, atlas: sitk.Image, *, same_modality: bool, seed: int = 0) -> sitk.AffineTransform:
    """Find the affine map from points of the atlas to points of the scan (MSF-Net, "Data preprocessing").

    Mutual information across modalities and normalised cross-correlation within one, on three resolutions, from the
    alignment of the centres.

    Args:
        scan, atlas: 3D images.
        same_modality: whether the two are of one modality.
        seed: of the sampled voxels; the result depends on nothing else.

    Raises:
        InputError: when the registration fails, as for scans without overlap or contrast.
    """
    fixed, moving = (sitk.Cast(image, sitk.sitkFloat32) for image in (atlas, scan))
    method = sitk.ImageRegistrationMethod()
    if same_modality:
        method.SetMetricAsCorrelation()
    else:
        method.SetMetricAsMattesMutualInformation(32)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, seed + 1)  # the seed 0 means the wall clock to SimpleITK
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-3, 100)
    method.SetOptimizerScalesFromPhysicalShift()
    # Thick slices are few: they are not shrunk.
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOff()
    start = sitk.CenteredTransformInitializer(
        fixed, moving, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    try:
        # Sums over threads are not associative: one thread makes the result repeatable.
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
        affine = sitk.AffineTransform(start)
        method.SetInitialTransform(affine, inPlace=True)
        method.Execute(fixed, moving)
    except RuntimeError as error:
        raise InputError(
            f"atlas: affine registration failed ({reason(error)}), a scan that overlaps it is needed"
        ) from None
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    return affine
