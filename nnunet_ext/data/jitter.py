"""Random brightness, contrast and noise that gradients pass through."""

from __future__ import annotations

import torch
from torch import Tensor


def intensity_jitter(image: Tensor, strength: float = 0.25, noise: float = 0.1) -> Tensor:
    """Each image with its contrast, brightness and noise changed at random; differentiable with respect to `image`.

    Contrast is multiplied by a factor between 1 / (1 + strength) and 1 + strength around the image's mean, brightness
    shifted by up to `strength` standard deviations, Gaussian noise added of up to `noise` standard deviations.

    Args:
        image: (B, C, *S).
        strength: of contrast and brightness; 0 leaves them alone.
        noise: largest standard deviation of the noise, as a share of the image's.

    Returns:
        (B, C, *S).
    """
    axes = tuple(range(2, image.ndim))
    one_each = (*image.shape[:2], *[1] * len(axes))

    def uniform() -> Tensor:
        return torch.rand(one_each, device=image.device, dtype=image.dtype)

    mean = image.mean(axes, keepdim=True)
    deviation = image.detach().std(axes, keepdim=True)
    factor = (1 + strength) ** (2 * uniform() - 1)
    shift = strength * (2 * uniform() - 1) * deviation
    return (image - mean) * factor + mean + shift + noise * uniform() * deviation * torch.randn_like(image)
