"""Random changes of boxes that leave the grade as it is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nnunet_ext.koos.settings import KoosSettings


def augment(
    image: Tensor, mask: Tensor, settings: KoosSettings, spacing: Sequence[float], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mirror, shift and rotate each box, image and mask together, then change its intensities.

    The size stays: whether a tumour is large is part of its grade.

    Args:
        image: (B, slices, rows, columns) in [-1, 1].
        mask: the same shape, 0 and 1.
        settings: the ranges.
        spacing: mm along slices, rows, columns; rotations are in mm.
        generator: what every number is drawn from.

    Returns:
        image in [-1, 1] and mask, new tensors.
    """
    moved = F.grid_sample(
        torch.stack([image, mask.to(image)], 1),
        F.affine_grid(
            _motions(image.shape, settings, spacing, generator).to(image), [len(image), 2, *image.shape[1:]], False
        ),
        padding_mode="border",
        align_corners=False,
    )
    image, mask = moved[:, 0], (moved[:, 1] > 0.5).to(mask)
    draw = torch.rand(len(image), 2, generator=generator).to(image)[..., None, None, None]
    exponent = (1 - settings.gamma) ** (2 * draw[:, 0] - 1)
    image = ((image.clamp(-1, 1) + 1) / 2) ** exponent * 2 - 1
    noise = torch.randn(image.shape, generator=generator).to(image)
    return (image + settings.noise * draw[:, 1] * noise).clamp(-1, 1), mask


def _motions(
    shape: Sequence[int], settings: KoosSettings, spacing: Sequence[float], generator: torch.Generator
) -> Tensor:
    """(B, 3, 4) maps from output to input, in `grid_sample`'s coordinates: -1 to 1 along columns, rows, slices."""
    batch = shape[0]
    half = torch.tensor([n * s / 2 for n, s in zip(shape[1:], spacing, strict=True)]).flip(0)
    draw = torch.rand(batch, 7, generator=generator)
    angle = (2 * draw[:, 0] - 1) * math.radians(settings.rotation)
    turn = torch.eye(3).repeat(batch, 1, 1)
    turn[:, 0, 0] = turn[:, 1, 1] = angle.cos()
    turn[:, 0, 1], turn[:, 1, 0] = -angle.sin(), angle.sin()
    # Rotations keep lengths in mm, so coordinates are scaled to mm and back.
    turn = turn * half[None, None, :] / half[None, :, None]
    if settings.mirror:
        turn = turn * torch.where(draw[:, 1:4] < 0.5, -1.0, 1.0)[:, None, :]
    shift = 2 * settings.shift * (2 * draw[:, 4:7] - 1)
    return torch.cat([turn, shift[..., None]], 2)
