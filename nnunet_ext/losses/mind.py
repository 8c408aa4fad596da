"""MIND: a description of local structure that does not depend on the modality.

Sources: Heinrich et al. 2012; AccSeg-Net eq. 6 with the sizes its authors ran (region 9, patch 7, neighbourhood 3,
sigma 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint as recomputed

from nnunet_ext.losses.precision import wide

Size = int | Sequence[int]


def mind_features(
    image: Tensor,
    *,
    region: Size = 9,
    patch: Size = 7,
    neighbourhood: Size = 3,
    sigma: float = 3.0,
    normalisation: Literal["sum", "max"] = "sum",
    eps: float = 1e-5,
) -> Tensor:
    """F_x(I) = exp(-K_x / V_x) / Z at every position x, for every shift s of a non-local region (AccSeg-Net eq. 6).

    K_x(s) is the Gaussian-weighted mean of squared differences between the patches at x and at x + s, V_x the mean
    of K_x over the shifts of a small neighbourhood (the local variance). Beyond the border the nearest pixel counts.

    Args:
        image: (B, C, *spatial), two or three spatial axes; channels are averaged in K.
        region, patch, neighbourhood: odd edge lengths in pixels, one for all axes or one per axis.
        sigma: standard deviation of the patch's Gaussian weight, in pixels.
        normalisation: Z is the sum over the shifts (as AccSeg-Net's authors ran it) or the maximum (as printed).
        eps: added to V, in squared intensity units of `image`; a constant image has equal features everywhere.

    Returns:
        (B, S, *spatial), S the number of shifts, the last axis' shift running fastest.

    Raises:
        ValueError: for an even size.
    """
    dims = image.ndim - 2
    region, patch, neighbourhood = (_sizes(size, dims) for size in (region, patch, neighbourhood))
    reach = [max(r, n) // 2 for r, n in zip(region, neighbourhood, strict=True)]
    image = wide(image)
    margin = [r + p // 2 for r, p in zip(reach, patch, strict=True)]
    padded = F.pad(image, [m for m in reversed(margin) for _ in range(2)], mode="replicate")

    def shifted(shift: Sequence[int]) -> Tensor:
        # The image moved by `shift`, still with half a patch of margin for the Gaussian.
        cut = tuple(
            slice(r + s, r + s + n + 2 * (p // 2))
            for r, s, n, p in zip(reach, shift, image.shape[2:], patch, strict=True)
        )
        return padded[(slice(None), slice(None), *cut)]

    still = shifted([0] * dims)

    def distances(sizes: Sequence[int]) -> Tensor:
        moves = product(*(range(-(s // 2), s // 2 + 1) for s in sizes))
        squared = torch.cat([(shifted(move) - still).square().mean(1, keepdim=True) for move in moves], 1)
        return _gaussian_mean(squared, patch, sigma)

    # Small differences of squares: half precision would lose them.
    with torch.autocast(image.device.type, enabled=False):
        variance = distances(neighbourhood).mean(1, keepdim=True) + eps
        features = torch.exp(-distances(region) / variance)
    scale = features.sum(1, keepdim=True) if normalisation == "sum" else features.amax(1, keepdim=True)
    return features / scale


class MINDLoss(torch.nn.Module):
    """Mean absolute difference between the MIND features of two images: ||F(G(I)) - F(I)||_1 of AccSeg-Net eq. 6.

    Takes the arguments of `mind_features`; called with two images (B, C, *spatial) of one shape.
    """

    def __init__(
        self,
        region: Size = 9,
        patch: Size = 7,
        neighbourhood: Size = 3,
        sigma: float = 3.0,
        normalisation: Literal["sum", "max"] = "sum",
    ) -> None:
        super().__init__()
        self.region, self.patch, self.neighbourhood = region, patch, neighbourhood
        self.sigma = sigma
        self.normalisation: Literal["sum", "max"] = normalisation

    def features(self, image: Tensor) -> Tensor:
        """See `mind_features`."""
        return mind_features(
            image,
            region=self.region,
            patch=self.patch,
            neighbourhood=self.neighbourhood,
            sigma=self.sigma,
            normalisation=self.normalisation,
        )

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return F.l1_loss(self.features(a), self.features(b))

    def of_some(self, fixed: Tensor, moving: Tensor, count: int) -> Tensor:
        """The loss of at most `count` images of the batch, drawn at random: an unbiased estimate of that of all.

        An image has 81 features per pixel at the defaults, several times over on the tape. Those of `moving` are
        computed again for the backward pass; `fixed` gets no gradient.
        """
        chosen = torch.randperm(len(fixed), device=fixed.device)[:count]
        with torch.autocast(fixed.device.type, enabled=False):
            with torch.no_grad():
                wanted = self.features(fixed[chosen])
            return F.l1_loss(recomputed(self.features, wide(moving[chosen]), use_reentrant=False), wanted)


def _sizes(size: Size, dims: int) -> list[int]:
    sizes = [size] * dims if isinstance(size, int) else list(size)
    if len(sizes) != dims or any(s < 1 or s % 2 == 0 for s in sizes):
        raise ValueError(f"size is {size}, one odd edge length or {dims} of them are needed")
    return sizes


def _gaussian_mean(x: Tensor, patch: Sequence[int], sigma: float) -> Tensor:
    """Gaussian-weighted mean over each patch, axis by axis, without padding."""
    convolve = F.conv2d if x.ndim == 4 else F.conv3d
    channels = x.shape[1]
    for axis, size in enumerate(patch):
        offsets = torch.arange(size, device=x.device, dtype=x.dtype) - size // 2
        weight = torch.exp(-offsets.square() / (2 * sigma**2))
        shape = [1, 1] + [size if a == axis else 1 for a in range(len(patch))]
        kernel = (weight / weight.sum()).reshape(shape).repeat(channels, 1, *[1] * len(patch))
        x = convolve(x, kernel, groups=channels)
    return x
