"""Images that keep their own structure and take another image's style: mixing of low-frequency amplitudes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def low_frequencies(size: Sequence[int], share: float, device: torch.device | str = "cpu") -> Tensor:
    """The mask V of CBAL eq. 1 in the layout of `torch.fft.rfftn`: frequencies low along every axis.

    Args:
        size: pixels per axis.
        share: frequency k of an axis of n pixels is low while abs(k) <= share * n; half of an axis is all there is,
            so 0.5 takes everything. An axis too short for one low frequency keeps its mean only.

    Returns:
        bool (*size with the last axis cut to n // 2 + 1), true where low; the zero frequency always is.
    """
    mask = torch.ones(1, dtype=torch.bool, device=device)
    for axis, n in enumerate(size):
        frequencies = torch.fft.fftfreq if axis < len(size) - 1 else torch.fft.rfftfreq
        low = frequencies(n, device=device).abs() <= share + 1e-6  # a bit more than rounding takes away
        mask = mask.unsqueeze(-1) & low if axis else low
    return mask


def mix_amplitude(image: Tensor, partner: Tensor, mix: float | Tensor = 0.8, share: float = 0.05) -> Tensor:
    """An image whose low frequencies have the partner's amplitude in part, and its own phase (CBAL eqs. 1 and 2).

    A = (1 - mix V) A_image + mix V A_partner. As printed, eq. 1 would also shrink all frequencies outside V to
    1 - mix, which blurs instead of changing the style; here they stay, as in the methods that it builds on (FDA,
    Yang and Soatto, CVPR 2020; FedDG, Liu et al., CVPR 2021).

    The zero frequency is a real number, negative where a normalised image is darker than average: it is mixed as it
    is, sign included.

    Args:
        image: (B, C, *S) with two or three spatial axes.
        partner: of the same shape; entry i lends its amplitude to entry i.
        mix: mu, or one for each image (B).
        share: of the frequencies that count as low, see `low_frequencies`.

    Returns:
        (B, C, *S) float32 or as wide as `image`.
    """
    if image.shape != partner.shape:
        raise ValueError(f"partner is {tuple(partner.shape)}, the image's shape {tuple(image.shape)} is needed")
    size = image.shape[2:]
    axes = tuple(range(2, image.ndim))
    with torch.autocast(image.device.type, enabled=False):
        image, partner = (x if x.dtype == torch.float64 else x.float() for x in (image, partner))
        own, other = (torch.fft.rfftn(x, dim=axes) for x in (image, partner))
        weight = low_frequencies(size, share, image.device).to(image.dtype)
        if isinstance(mix, Tensor):
            mix = mix.to(image.dtype).reshape(-1, *[1] * (image.ndim - 1))
        weight = mix * weight
        amplitude = own.abs()
        mixed = own * (1 + weight * (other.abs() / amplitude.clamp_min(torch.finfo(image.dtype).eps) - 1))
        zero = (..., *[0] * len(size))
        mean_weight = mix.flatten()[:, None] if isinstance(mix, Tensor) else mix
        mixed[zero] = own[zero] + mean_weight * (other[zero] - own[zero])
        return torch.fft.irfftn(mixed, s=size, dim=axes)
