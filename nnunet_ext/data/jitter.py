"""Random changes of intensity, computed where the images are and differentiable."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

_FIELD_POINTS = 4


def intensity_jitter(image: Tensor, strength: float = 0.25, noise: float = 0.1) -> Tensor:
    """Each image with its gamma, sensitivity, contrast, brightness and noise changed at random.

    The changes of nnU-Net's intensity augmentation and a coil's smooth sensitivity, but differentiable with respect to
    `image`: gamma between the image's extremes and the contrast around its mean are drawn between 1 / (1 + strength)
    and 1 + strength; the distance from the image's minimum is multiplied by a smooth field, log-normal with
    log(1 + strength) as its deviation; brightness shifts by up to `strength` standard deviations; Gaussian noise of up
    to `noise` standard deviations is added. The image's extremes and deviation count as constants for the gradient, and
    pixels within a thousandth of the range above the minimum have none through gamma, whose slope is infinite there.

    Args:
        image: (B, C, *S).
        strength: of all but the noise; 0 leaves them alone.
        noise: largest standard deviation of the noise, as a share of the image's.

    Returns:
        (B, C, *S).
    """
    axes = tuple(range(2, image.ndim))
    one_each = (*image.shape[:2], *[1] * len(axes))

    def between() -> Tensor:
        """From -1 to 1, one for each image and channel."""
        return 2 * torch.rand(one_each, device=image.device, dtype=image.dtype) - 1

    deviation = image.detach().std(axes, keepdim=True)
    if strength > 0:
        low = image.detach().amin(axes, keepdim=True)
        width = (image.detach().amax(axes, keepdim=True) - low).clamp_min(1e-6)
        unit = ((image - low) / width).clamp_min(1e-3)
        image = low + width * unit ** ((1 + strength) ** between()) * _field(image, strength)
        mean = image.mean(axes, keepdim=True)
        image = (image - mean) * (1 + strength) ** between() + mean + strength * between() * deviation
    amount = noise * (between() + 1) / 2
    return image + amount * deviation * torch.randn_like(image)


def _field(image: Tensor, strength: float) -> Tensor:
    """A smooth positive field for each image, the same in all channels; (B, 1, *S)."""
    dims = image.ndim - 2
    coarse = torch.randn(len(image), 1, *[_FIELD_POINTS] * dims, device=image.device, dtype=image.dtype)
    mode = "bilinear" if dims == 2 else "trilinear"
    smooth = F.interpolate(coarse, image.shape[2:], mode=mode, align_corners=True)
    return (smooth * math.log1p(strength)).exp()
