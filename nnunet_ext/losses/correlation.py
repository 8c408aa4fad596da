"""Correlation between an image and its translation: the anatomy constraint of AccSeg-Net."""

from __future__ import annotations

import torch
from torch import Tensor

from nnunet_ext.losses.precision import wide


def correlation_coefficient(a: Tensor, b: Tensor, eps: float = 1e-6) -> Tensor:
    """Pearson's r of each image pair over all channels and positions.

    Args:
        a, b: (B, ...), of one shape.
        eps: added to the product of variances; r of a constant image is 0.

    Returns:
        (B,), from -1 to 1.
    """
    a, b = wide(a.flatten(1)), wide(b.flatten(1))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return (a * b).mean(1) / (a.square().mean(1) * b.square().mean(1) + eps**2).sqrt()


def correlation_loss(a: Tensor, b: Tensor, signed: bool = False) -> Tensor:
    """1 - r^2, or 1 - r when `signed`: how far `b` is from a linear map of `a`.

    AccSeg-Net eq. 6 prints r itself, which would reward decorrelation; its authors ran 1 - r^2. That form leaves an
    inversion of contrast free, which is legitimate between modalities; `signed` forbids it.

    Args:
        a, b: (B, ...), of one shape.
        signed: use 1 - r.

    Returns:
        the mean over the batch: from 0 to 1, or to 2 when `signed`.
    """
    r = correlation_coefficient(a, b)
    return (1 - r).mean() if signed else (1 - r.square()).mean()


class CorrelationLoss(torch.nn.Module):
    """See `correlation_loss`."""

    def __init__(self, signed: bool = False) -> None:
        super().__init__()
        self.signed = signed

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return correlation_loss(a, b, self.signed)
