"""Target-aware normalisation: region normalisation (RN) and region-aware adaptive instance normalisation (RAIN).

Source: TANQ eqs. 1-7. The learned scale and shift of each region are those of RN (Yu et al. 2020); at their initial
values 1 and 0 the layer is exactly the equations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def region_statistics(
    x: Tensor, weights: Tensor, *, min_pixels: float = 16.0, eps: float = 1e-5
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each region of each instance and channel.

    A region of fewer than `min_pixels` gets the statistics of the whole feature map: those of a few pixels would
    blow up noise, and those of none do not exist.

    Args:
        x: (B, C, *spatial).
        weights: (B, K, *spatial) membership of each pixel in each region, from 0 to 1.
        min_pixels: least total membership, in pixels of `x`.
        eps: added to the variance.

    Returns:
        mean and standard deviation, (B, K, C) each, in float32.
    """
    x, weights = x.float().flatten(2), weights.float().flatten(2)
    means, variances = [], []
    whole_mean, whole_variance = x.mean(-1), x.var(-1, unbiased=False)
    for w in weights.unbind(1):
        w = w.unsqueeze(1)
        size = w.sum(-1)
        mean = (w * x).sum(-1) / size.clamp_min(1)
        variance = (w * (x - mean.unsqueeze(-1)).square()).sum(-1) / size.clamp_min(1)
        enough = size >= max(min_pixels, 1)
        means.append(torch.where(enough, mean, whole_mean))
        variances.append(torch.where(enough, variance, whole_variance))
    return torch.stack(means, 1), (torch.stack(variances, 1) + eps).sqrt()


def region_normalise(
    x: Tensor,
    weights: Tensor,
    restyled: Sequence[int] = (),
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    *,
    min_pixels: float = 16.0,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each region by its own statistics (eqs. 2, 5) and give some the style of the rest (eq. 6).

    Regions `k` in `restyled` become (x - mean_k) / std_k * std_others + mean_others; the regions are then merged by
    their weights (eqs. 3, 7), which for masks of 0 and 1 is the union of the equations.

    Args:
        x: (B, C, *spatial).
        weights: (B, K, *spatial) memberships that sum to 1 over K; the last region is "others".
        restyled: indices into K that take the style of "others".
        scale, shift: (K, C) learned after the normalisation; 1 and 0 without them.
        min_pixels, eps: see `region_statistics`.

    Returns:
        the shape and type of `x`.
    """
    mean, std = region_statistics(x, weights, min_pixels=min_pixels, eps=eps)
    # Every step is linear in x per region: out = factor * x + offset.
    factor, offset = 1 / std, -mean / std
    if restyled:
        style = torch.zeros(weights.shape[1], 1, dtype=torch.bool, device=x.device)
        style[list(restyled)] = True
        factor, offset = (
            torch.where(style, factor * std[:, -1:], factor),
            torch.where(style, offset * std[:, -1:] + mean[:, -1:], offset),
        )
    if scale is not None:
        factor, offset = factor * scale, offset * scale
    if shift is not None:
        offset = offset + shift
    weights = weights.to(factor)
    # Mixed precision would round factors and offsets that nearly cancel.
    with torch.autocast(x.device.type, enabled=False):
        out = torch.einsum("bk...,bkc->bc...", weights, factor) * x.float()
        return (out + torch.einsum("bk...,bkc->bc...", weights, offset)).to(x.dtype)


class PlainNorm(nn.Module):
    """Instance normalisation without learned parameters; takes channels and masks, as `RegionNorm`
    does, and needs neither."""

    def __init__(self, channels: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        return F.instance_norm(x)


class RegionNorm(nn.Module):
    """`region_normalise` with a learned scale and shift for each region.

    Args:
        channels: C.
        regions: which channels of the masks get statistics of their own; all other pixels are "others".
        restyled: those of `regions` that take the style of "others" (RAIN).
        min_pixels: see `region_statistics`.
    """

    def __init__(
        self, channels: int, regions: Sequence[int], restyled: Sequence[int] = (), min_pixels: float = 16.0
    ) -> None:
        super().__init__()
        if not set(restyled) <= set(regions):
            raise ValueError(f"restyled {list(restyled)} must be among the regions {list(regions)}")
        self.regions = list(regions)
        self.restyled = [self.regions.index(r) for r in restyled]
        self.min_pixels = min_pixels
        self.scale = nn.Parameter(torch.ones(len(self.regions) + 1, channels))
        self.shift = nn.Parameter(torch.zeros(len(self.regions) + 1, channels))

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """
        Args:
            x: (B, C, *spatial).
            masks: (B, R, *any size) of 0 and 1, disjoint; averaged down to the size of `x`. Without masks all of
                `x` is "others".
        """
        if masks is None or not self.regions:
            ones = x.new_ones(x.shape[0], 1, *x.shape[2:])
            return region_normalise(x, ones, (), self.scale[-1:], self.shift[-1:], min_pixels=self.min_pixels)
        inside = masks[:, self.regions].float()
        if inside.shape[2:] != x.shape[2:]:
            inside = F.interpolate(inside, size=x.shape[2:], mode="area")
        weights = torch.cat([inside, 1 - inside.sum(1, keepdim=True)], 1)
        return region_normalise(x, weights, self.restyled, self.scale, self.shift, min_pixels=self.min_pixels)
